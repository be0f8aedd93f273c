"""The client side of PFL-GAN: train a GAN of its own, on its images and on synthetic ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from collafuse_flwr.client.base import Handler
from collafuse_flwr.client.gan_base import WholeGanClient
from collafuse_flwr.client.split_session import Batches
from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.data.images import ImageSet
from collafuse_flwr.gan.networks import only
from collafuse_flwr.wire.common import EvaluateReply
from collafuse_flwr.wire.gan import GanWorkRequest, SyntheticWorkRequest
from collafuse_flwr.wire.split_gan import EndRoundReply
from collafuse_flwr.wire.validation import check_synthetic


class PflGanClient(WholeGanClient):
    """A client of PFL-GAN (arXiv 2308.12454), whose samples its own generator makes.

    Its discriminator stays with it, and so does the generator once it has learnt from synthetic images.
    """

    def handlers(self) -> Mapping[str, Handler]:
        """Training, and samples."""
        return {"train": (SyntheticWorkRequest, self.on_train), "evaluate": (GanWorkRequest, self.on_evaluate)}

    def on_train(self, request: SyntheticWorkRequest) -> EndRoundReply:
        """Train both nets on the batches of a round."""
        batches, mixed = self._mixed(request), request.synthetic is not None
        gan, metrics = self._trained_gan(request.round, request.count, request.weights, batches, mixed=mixed)
        # The server mixes what generators make that have not learnt from mixtures themselves.
        mixed = self.store.load(before=request.round + 1)[0].mixed
        return EndRoundReply(metrics, only("generator", gan.blocks()) if request.want_generator and not mixed else {})

    def on_evaluate(self, request: GanWorkRequest) -> EvaluateReply:
        """Make samples with its own generator, keep them, and compare them to held-out images."""
        return super().on_evaluate(replace(request, weights=only("generator", self._gan(request.round + 1).blocks())))

    def _mixed(self, request: SyntheticWorkRequest) -> Batches:
        """Batches of its own images and the synthetic ones that came, all alike."""
        batches, own = self._batches(), self.data.train
        if request.synthetic is None:
            return batches
        try:
            check_synthetic(request.synthetic, request.labels, self._shape(), self.config.pfl_gan.num_synthetic)
        except UploadError as error:
            raise self._refusal(str(error)) from None
        assert request.labels is not None
        images, labels = (request.synthetic, own.images), (request.labels, own.labels)
        return replace(batches, images=ImageSet(torch.cat(images), torch.cat(labels), own.class_names, own.name))
