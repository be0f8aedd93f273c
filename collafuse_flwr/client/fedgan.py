"""The client side of FedGAN and HFL-GAN: train both nets from weights that come, and send them back."""

from __future__ import annotations

from collections.abc import Mapping

from collafuse_flwr.client.base import Handler
from collafuse_flwr.client.gan_base import WholeGanClient
from collafuse_flwr.wire.gan import GanWorkRequest
from collafuse_flwr.wire.split_gan import EndRoundReply


class FedGanClient(WholeGanClient):
    """A client of FedGAN (arXiv 2006.07228) or HFL-GAN (doi 10.1007/s10489-024-05924-x)."""

    def handlers(self) -> Mapping[str, Handler]:
        """Training, and samples."""
        return {"train": (GanWorkRequest, self.on_train), "evaluate": (GanWorkRequest, self.on_evaluate)}

    def on_train(self, request: GanWorkRequest) -> EndRoundReply:
        """Train both nets on the batches of a round."""
        gan, metrics = self._trained_gan(request.round, request.count, request.weights, self._batches())
        return EndRoundReply(metrics, gan.blocks())
