"""A ServerApp that runs CollaFuse unchanged, and after each round passes over as many images as the authors do.

It does so twice: with the authors' network, and with ours, which tells what the network is worth. Seconds are those of
the processor.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from flwr.app import Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp

from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.images import normalize
from collafuse_flwr.runs.history import RoundRecord
from simulations.bench.instrumented import TimedCollaFuse, run_timed
from simulations.bench.reference_ddpm import DdpmLoop, Network
from simulations.bench.reference_unet import PlainUNet

app = ServerApp()


class BesideAuthors(TimedCollaFuse):
    """CollaFuse beside the authors' loop; `loops` are those with their network and with ours."""

    loops: dict[str, DdpmLoop]

    def _seconds(self) -> float:
        return time.process_time()

    def _prepare(self) -> None:
        config, shape = self.config, next(iter(self.client_manager.client_infos.values())).shape
        (cut,), size = set(config.cut_steps()), config.client.batch_size
        data = federation_data(config.data, config.run.num_supernodes, config.run.seed)
        images = {i: normalize(data.client(i).train.images) for i in range(config.run.num_supernodes)}
        self.num_steps = {i: round(config.train.local_epochs * len(own) / size) for i, own in images.items()}

        def theirs() -> Network:
            network = PlainUNet(shape[0])
            return network, network

        def ours() -> Network:
            network = self.setup.backbone(*shape)
            denoise = self.setup.denoise(network)
            return network, lambda x_t, t: denoise(x_t, t, None)

        builders = {"theirs": theirs, "ours": ours}
        schedule = self.setup.schedule
        self.loops = {name: DdpmLoop(build, images, schedule, cut, size) for name, build in builders.items()}
        self.seconds_with_ours: list[float] = []

    def _repeat(self, row: RoundRecord) -> int:
        return self._pass_over("theirs", row)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Time the round of the app and of the authors' loop, then their loop with our network."""
        metrics = super().aggregate_evaluate(server_round, replies)
        with self._threads():
            began = self._seconds()
            self._pass_over("ours", self.history.rounds[-1])
            self.seconds_with_ours.append(self._seconds() - began)
        return metrics

    def _pass_over(self, network: str, row: RoundRecord) -> int:
        """The clients of a round, each over all of its images."""
        return self.loops[network].round({int(client): self.num_steps[int(client)] for client in row.clients})

    def report(self) -> dict[str, Any]:
        """The laps, and the seconds of the authors' loop with our network."""
        return {"seconds_with_ours": self.seconds_with_ours} | super().report()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the strategy of `simulations.bench.authors_loop`."""
    run_timed(BesideAuthors, grid, context)
