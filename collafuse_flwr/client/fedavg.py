"""The client side of federated averaging: train the whole chain from the shared weights, and send them back."""

from __future__ import annotations

import time
from collections.abc import Mapping

from torch import nn

from collafuse_flwr.client.averaging import AveragedClient
from collafuse_flwr.client.base import Handler
from collafuse_flwr.diffusion.unet import import_diffusers
from collafuse_flwr.wire.fedavg import WeightsHandoff, WeightsReply, WeightsRequest
from collafuse_flwr.wire.validation import received_start


class FedAvgClient(AveragedClient):
    """FedAvg (arXiv 1602.05629), FedProx (arXiv 1812.06127) and the partial schemes of FedDiffuse (arXiv 2406.12575).

    At c = 1 weights, or some of them, are replaced before a round and sent after it. Adam's moments and what is not
    shared stay with the client from round to round.
    """

    def handlers(self) -> Mapping[str, Handler]:
        """Training, and generating samples."""
        return {"train": (WeightsRequest, self.on_train), "evaluate": (WeightsHandoff, self._evaluate_average)}

    def on_train(self, request: WeightsRequest) -> WeightsReply:
        """Train from the shared weights."""
        self._check_start(request)
        import_diffusers()
        began = time.perf_counter()
        backbone = received_start(request.backbone)
        state, tensors = self.store.load(before=request.round)
        counts = request.round, request.num_rounds
        work = self._plan(state, bool(tensors), *counts)
        result = self._train_round(*counts, work, tensors, began, backbone=backbone, weights=request.weights)
        return WeightsReply(metrics=result.metrics, **self._wanted_weights(request, result))

    def _network(self) -> nn.Module:
        """All clients, and the server, begin with the same weights: client 0's, so that one alone trains locally."""
        return self.setup.denoiser(0, *self._shape())
