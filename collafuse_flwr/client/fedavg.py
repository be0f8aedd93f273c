"""The client side of federated averaging: train the whole chain from the shared weights, and send them back."""

from __future__ import annotations

import time
from collections.abc import Mapping

from torch import nn

from collafuse_flwr.client.base import Handler
from collafuse_flwr.client.diffusion_base import DiffusionClient, RoundResult
from collafuse_flwr.diffusion.partial_sharing import part_names
from collafuse_flwr.diffusion.unet import import_diffusers
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.common import EvaluateReply
from collafuse_flwr.wire.fedavg import WeightsHandoff, WeightsReply, WeightsRequest
from collafuse_flwr.wire.validation import received_start


class FedAvgClient(DiffusionClient):
    """FedAvg (arXiv 1602.05629), FedProx (arXiv 1812.06127) and the partial schemes of FedDiffuse (arXiv 2406.12575).

    At c = 1 weights, or some of them, are replaced before a round and sent after it. Adam's moments and what is not
    shared stay with the client from round to round.
    """

    def handlers(self) -> Mapping[str, Handler]:
        """Training, and generating samples."""
        return {"train": (WeightsRequest, self.on_train), "evaluate": (WeightsHandoff, self.on_evaluate)}

    def on_train(self, request: WeightsRequest) -> WeightsReply:
        """Train from the shared weights."""
        import_diffusers()
        began = time.perf_counter()
        backbone = received_start(request.backbone)
        state, tensors = self.store.load(before=request.round)
        counts = request.round, request.num_rounds
        work = self._plan(state, bool(tensors), *counts)
        result = self._train_round(*counts, work, tensors, began, backbone=backbone, weights=request.weights)
        return WeightsReply(metrics=result.metrics, **wanted_weights(request, result))

    def on_evaluate(self, handoff: WeightsHandoff) -> EvaluateReply:
        """Generate with the federation's averaged weights."""
        return self._evaluate(handoff, handoff.averaged)

    def _network(self) -> nn.Module:
        """All clients, and the server, begin with the same weights: client 0's, so that one alone trains locally."""
        return self.setup.denoiser(0, *self._shape())


def wanted_weights(request: WeightsRequest, result: RoundResult) -> dict[str, Weights]:
    """The `weights` and `averaged` weights that a request wants; nothing of a denoiser that took no step."""
    if result.state is None or not result.metrics.steps:
        return {"weights": {}, "averaged": {}}

    def part(weights: Weights) -> Weights:
        return {name: weights[name] for name in part_names(weights, request.part)}

    averaged = part(result.state.ema_state_dict()) if request.want_averaged else {}
    return {"weights": part(result.state.network.state_dict()), "averaged": averaged}
