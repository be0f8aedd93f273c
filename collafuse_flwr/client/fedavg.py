"""The client side of federated averaging: train the whole chain from the shared weights, and send them back."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import RecordDict
from torch import nn

from collafuse_flwr.client.collafuse import CollaFuseClient
from collafuse_flwr.diffusion.partial_sharing import part_names
from collafuse_flwr.diffusion.train import TrainState
from collafuse_flwr.wire.codec import pack_numbers
from collafuse_flwr.wire.collafuse import TrainMetrics
from collafuse_flwr.wire.fedavg import (
    Weights,
    WeightsReply,
    WeightsRequest,
    pack_weights_reply,
    unpack_weights_handoff,
    unpack_weights_request,
)


@dataclass(frozen=True)
class FedAvgClient(CollaFuseClient):
    """FedAvg (arXiv 1602.05629), FedProx (arXiv 1812.06127) and the partial schemes of FedDiffuse (arXiv 2406.12575).

    It is CollaFuse's client at c = 1 whose weights, or some of them, are replaced before a round and sent after it.
    Adam's moments and what is not shared stay with the client from round to round.
    """

    def on_train(self, content: RecordDict) -> RecordDict:
        """Answer a message of type train."""
        request = unpack_weights_request(content)
        result = self._round(request.round, request.num_rounds, weights=request.weights)
        trained = result.state if result.numbers.steps else None
        return pack_weights_reply(wanted_weights(request, result.numbers, trained))

    def on_evaluate(self, content: RecordDict) -> RecordDict:
        """Answer a message of type evaluate."""
        received = unpack_weights_handoff(content)
        return pack_numbers(self._evaluate(received.handoff, received.averaged))

    def _network(self) -> nn.Module:
        """All clients, and the server, begin with the same weights: client 0's, so that one alone trains locally."""
        return self.setup.denoiser(0, *self._shape())


def wanted_weights(request: WeightsRequest, numbers: TrainMetrics, state: TrainState | None) -> WeightsReply:
    """The part of a trained denoiser that a request asks for; nothing of one that was not trained."""
    if state is None:
        return WeightsReply(numbers, {}, {})

    def part(weights: Weights) -> Weights:
        return {name: weights[name] for name in part_names(weights, request.part)}

    averaged = part(state.ema_state_dict()) if request.want_averaged else {}
    return WeightsReply(numbers, part(state.network.state_dict()), averaged)
