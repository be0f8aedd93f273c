"""The client side of FedGAN: train both nets from the shared weights, and send them back."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from flwr.app import RecordDict

from collafuse_flwr.client.gan_base import GanClient
from collafuse_flwr.client.split_session import batch_flops
from collafuse_flwr.client.state_store import ClientState
from collafuse_flwr.gan.build import build_optim_config
from collafuse_flwr.gan.fedgan import UnsplitGan
from collafuse_flwr.wire.gan import unpack_gan_work_request
from collafuse_flwr.wire.split_gan import EndRoundReply, GanTrainMetrics, pack_end_round_reply


@dataclass(frozen=True)
class FedGanClient(GanClient):
    """A client of FedGAN (arXiv 2006.07228), which has the whole GAN; Adam's moments stay with it."""

    def on_train(self, content: RecordDict) -> RecordDict:
        """Answer a message of type train."""
        request, began = unpack_gan_work_request(content), time.perf_counter()
        architecture, config = self._architecture(), self.setup.config
        gan = UnsplitGan(architecture, config.run.seed, build_optim_config(config))
        _, tensors = self.store.load(before=request.round)
        gan.load(tensors)
        gan.load_blocks(request.weights)
        batches, rows = self._batches(), config.gan.gan_batch_size
        # Nothing of a batch leaves, so nothing need be noised.
        gan.train(replace(batches.draw(request.round, step), noise=None) for step in range(request.count))
        self.store.save(ClientState(round=request.round, first_round=1), gan.state())
        flops = batch_flops(gan.device, architecture, rows) + rows * gan.middle_flops()
        losses, steps = gan.device.losses, request.count
        seconds = time.perf_counter() - began
        numbers = GanTrainMetrics(
            losses["discriminator"], losses["generator"], steps, steps * rows, seconds, steps * flops
        )
        return pack_end_round_reply(EndRoundReply(numbers, gan.blocks()))
