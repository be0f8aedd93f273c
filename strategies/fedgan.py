"""The server side of FedGAN as a Flower strategy: the mean of whole GANs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict

from flwr.app import ArrayRecord, Message, MetricRecord

from collafuse_flwr.gan.fedgan import UnsplitGan
from collafuse_flwr.runs.history import Checkpoint
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.common import ClientInfo
from collafuse_flwr.wire.gan import GanWorkRequest
from strategies.gan_base import GeneratorStrategy
from strategies.server_model import ServerWork, weights


class FedGan(GeneratorStrategy):
    """FedGAN (arXiv 2006.07228): generators and discriminators are trained by clients, and averaged.

    A round is K batches at every client, from the same weights, and then their mean, weighted by images. K is that of
    the split GAN (setup/gan.py), so that generators take as many steps. The global arrays are the mean.
    """

    shared: Weights

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the weights that came and average them."""
        row, began = self.history.rounds[-1], time.perf_counter()
        self._gather_training(replies)
        with self._threads():
            self._average()
        row.server = asdict(ServerWork(math.nan, 0, 0, time.perf_counter() - began, 0)) | {"pool": 0}
        return self._arrays(), self._close_training()

    def _average(self) -> None:
        """The mean of what came in, sum_i n_i w_i / sum_i n_i; all stays as it is where nothing did."""
        if self.received:
            self.shared = self._mean(self.received)
        self.received = {}

    def _build(self, client_info: ClientInfo) -> None:
        super()._build(client_info)
        self.shared = UnsplitGan(self.architecture, self.config.run.seed, self.optim_config).blocks()

    def _train_request(self, client: int, round_: int) -> GanWorkRequest:
        """The shared weights, and the number of batches to train them on."""
        return GanWorkRequest(round_, self._steps(), self.shared)

    def _template(self, client: int) -> Weights:
        return self.shared

    def _generators(self) -> dict[str, Weights]:
        return {"": {name: x for name, x in self.shared.items() if name.startswith("generator.")}}

    def _arrays(self) -> ArrayRecord:
        return ArrayRecord(self.shared)

    def _load_initial(self, arrays: ArrayRecord) -> None:
        self.shared |= weights(arrays)

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint({"shared": self.shared})

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.shared = {name: value.cpu() for name, value in checkpoint.tensors["shared"].items()}
