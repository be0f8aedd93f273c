"""The server side of FedGAN as a Flower strategy: the mean of whole GANs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from collafuse_flwr.gan.networks import only
from collafuse_flwr.runs.history import Checkpoint
from collafuse_flwr.wire.codec import Weights
from strategies.whole_gan import WholeGanStrategy


class FedGan(WholeGanStrategy):
    """FedGAN (arXiv 2006.07228): both nets are averaged over all clients.

    All begin a round with the mean of the last one, weighted by images.
    """

    def _average(self, received: Mapping[int, Weights]) -> dict[str, Any]:
        """The mean of what came in, sum_i n_i w_i / sum_i n_i."""
        self.shared = self._mean(received)
        return {}

    def _fresh_weights(self, client: int) -> Weights:
        return self.shared

    def _generators(self) -> dict[str, Weights]:
        return {"": only("generator", self.shared)}

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint({"shared": self.shared})

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.shared = {name: value.cpu() for name, value in checkpoint.tensors["shared"].items()}
