"""The client side of FedGAN: train both nets from the shared weights, and send them back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from collafuse_flwr.client.base import Handler
from collafuse_flwr.client.gan_base import GeneratorClient
from collafuse_flwr.client.split_session import batch_flops
from collafuse_flwr.client.state_store import ClientState
from collafuse_flwr.gan.fedgan import UnsplitGan
from collafuse_flwr.wire.gan import GanWorkRequest
from collafuse_flwr.wire.split_gan import EndRoundReply, GanTrainMetrics


class FedGanClient(GeneratorClient):
    """A client of FedGAN (arXiv 2006.07228), which has the whole GAN; Adam's moments stay with it."""

    def handlers(self) -> Mapping[str, Handler]:
        """Training, and samples."""
        return {"train": (GanWorkRequest, self.on_train), "evaluate": (GanWorkRequest, self.on_evaluate)}

    def on_train(self, request: GanWorkRequest) -> EndRoundReply:
        """Train both nets on the batches of a round."""
        began = time.perf_counter()
        self._check_steps(request.count)
        self._check_trained(request.count)
        architecture, config = self._architecture(), self.config
        gan = UnsplitGan(architecture, config.run.seed, self._optim_config())
        _, tensors = self.store.load(before=request.round)
        gan.load(tensors)
        gan.load_blocks(request.weights)
        batches, rows = self._batches(), config.gan.batch_size
        # Nothing of a batch leaves, so nothing need be noised.
        gan.train(replace(batches.draw(request.round, step), noise=None) for step in range(request.count))
        self.store.save(ClientState(round=request.round, first_round=1), gan.state())
        flops = batch_flops(gan.device, architecture, rows) + rows * gan.middle_flops()
        losses, steps = gan.device.losses, request.count
        seconds = time.perf_counter() - began
        metrics = GanTrainMetrics(
            losses["discriminator"], losses["generator"], steps, steps * rows, seconds, steps * flops
        )
        return EndRoundReply(metrics, gan.blocks())
