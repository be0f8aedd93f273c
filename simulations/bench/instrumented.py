"""A ServerApp that runs CollaFuse unchanged, and after each of its rounds repeats it with a plain loop.

App and plain loop so alternate round by round within one run, in one process and with Ray's workers idle during the
plain part; both are timed by the same clock. A round of the app lasts from the moment it is configured until its
checkpoint is written: messages, clients, uploads, backbone and files are in it.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from torch import Tensor

from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import RunFailed
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.runs.history import RoundRecord
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.bench.reference_loop import ReferenceLoop, Rows
from strategies.collafuse import CollaFuse

#: What the run leaves beside its own files.
REPORT = "overhead.json"

app = ServerApp()


@dataclass(frozen=True)
class RoundTiming:
    """One round, made twice: the image updates that the app reported and the plain loop counted, and their seconds."""

    round: int
    app_updates: int
    plain_updates: int
    app_seconds: float
    plain_seconds: float


class TimedCollaFuse(CollaFuse):
    """CollaFuse with a clock, and a plain loop after each round."""

    def __init__(self, config: Config, folder: Path, progress: Progress, clients: Callable[[int], Any]) -> None:
        super().__init__(config, folder, progress, clients)
        self.laps: list[RoundTiming] = []
        self._began = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Start the clock."""
        self._began = self._seconds()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Stop the clock and let the plain loop repeat the round.

        Raises:
            RunFailed: a client failed, so that the round is no measure.
        """
        metrics = super().aggregate_evaluate(server_round, replies)
        app_seconds, row = self._seconds() - self._began, self.history.rounds[-1]
        if row.failed or row.rejected:
            raise RunFailed(f"clients failed in round {row.round}: {row.failed | row.rejected}")
        if not self.laps:
            self._prepare()
        app_updates = sum(numbers["image_updates"] for numbers in (row.server, *row.clients.values()))
        with self._threads():
            began = self._seconds()
            plain_updates = self._repeat(row)
            plain_seconds = self._seconds() - began
        self.laps.append(RoundTiming(row.round, app_updates, plain_updates, app_seconds, plain_seconds))
        return metrics

    def _seconds(self) -> float:
        """The clock."""
        return time.perf_counter()

    @abstractmethod
    def _prepare(self) -> None:
        """Build what the plain loop trains, beyond the clock."""

    @abstractmethod
    def _repeat(self, row: RoundRecord) -> int:
        """Repeat a round of the app with the plain loop, and return the image updates made."""

    def report(self) -> dict[str, Any]:
        """What is written to the run's folder."""
        return {"laps": [asdict(lap) for lap in self.laps]}


class InstrumentedCollaFuse(TimedCollaFuse):
    """Beside it the updates that it makes itself, of equal bits if threads are equal."""

    plain: ReferenceLoop

    def _prepare(self) -> None:
        self.plain = ReferenceLoop(self.config, self.setup, Rows(*self.pool.batch(torch.arange(len(self.pool)))))

    def _repeat(self, row: RoundRecord) -> int:
        steps = {int(client): int(numbers["steps"]) for client, numbers in row.clients.items()}
        return self.plain.round(row.round, steps, row.server["steps"])

    def report(self) -> dict[str, Any]:
        """The laps, and the largest difference between a weight of the app and of the plain loop."""
        return {"weight_difference": self._weight_difference()} | super().report()

    def _weight_difference(self) -> float:
        largest = _difference(self.backbone.network.state_dict(), self.plain.backbone.network.state_dict())
        for client, learner in self.plain.clients.items():
            _, tensors = ClientStore(self.layout.client(client).folder).load(before=self.done + 1)
            if learner.steps:
                weights = {name: tensors[f"network.{name}"] for name in learner.network.state_dict()}
                largest = max(largest, _difference(weights, learner.network.state_dict()))
        return largest


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the strategy of `simulations.bench.overhead`."""
    run_timed(InstrumentedCollaFuse, grid, context)


def run_timed(strategy_type: type[TimedCollaFuse], grid: Grid, context: Context) -> None:
    """Run all rounds but the last, which would evaluate, and write the laps to the run's folder."""
    config = Config.from_flat(context.run_config)
    folder = RunLayout.of(config, context.run_id).folder
    logging.getLogger("flwr").setLevel(logging.WARNING)
    with Progress(config.run.quiet) as progress:
        strategy = strategy_type(config, folder, progress, lambda _: None)
        arrays = strategy.connect(grid)
        strategy.start(grid, arrays, strategy.rounds_left - 1, config.federation.round_timeout)
    write_json(folder / REPORT, strategy.report())


def _difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    return max(float((ours[name].cpu() - value.cpu()).abs().max()) for name, value in theirs.items())
