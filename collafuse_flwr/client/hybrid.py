"""The client side of the hybrid: CollaFuse's, whose low-noise denoiser is averaged with those of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from collafuse_flwr.client.averaging import AveragedClient
from collafuse_flwr.client.base import Handler
from collafuse_flwr.client.collafuse import CollaFuseClient
from collafuse_flwr.wire.fedavg import HybridReply, HybridRequest, WeightsHandoff


class HybridClient(AveragedClient, CollaFuseClient):
    """CollaFuse for t > k and FedAvg for t <= k: more traffic, and weights that leave the client."""

    def handlers(self) -> Mapping[str, Handler]:
        """Training, and finishing samples."""
        return {"train": (HybridRequest, self.on_hybrid_train), "evaluate": (WeightsHandoff, self._evaluate_average)}

    def on_hybrid_train(self, request: HybridRequest) -> HybridReply:
        """Upload if the request says so, and train from the shared weights."""
        self._check_start(request)
        result, upload = self._round(request, request.weights)
        weights: dict[str, Any] = self._wanted_weights(request, result)
        return HybridReply(metrics=result.metrics, upload=upload, **weights)
