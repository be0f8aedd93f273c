"""The client side of federated averaging: train the whole chain from the shared weights, and send them back."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import RecordDict
from torch import nn

from collafuse_flwr.client.collafuse import CollaFuseClient
from collafuse_flwr.diffusion import TrainState
from collafuse_flwr.parts import part_names
from collafuse_flwr.wire import (
    TrainNumbers,
    Weights,
    WeightsReply,
    WeightsRequest,
    pack_numbers,
    pack_weights_reply,
    unpack_weights_hand_over,
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
        outcome = self._round(request.round, request.num_rounds, weights=request.weights)
        trained = outcome.state if outcome.numbers.steps else None
        return pack_weights_reply(wanted_weights(request, outcome.numbers, trained))

    def on_evaluate(self, content: RecordDict) -> RecordDict:
        """Answer a message of type evaluate."""
        received = unpack_weights_hand_over(content)
        return pack_numbers(self._evaluate(received.hand_over, received.averaged))

    def _network(self) -> nn.Module:
        """All clients, and the server, begin with the same weights: client 0's, so that one alone trains locally."""
        return self.process.denoiser(0, *self._shape())


def wanted_weights(request: WeightsRequest, numbers: TrainNumbers, state: TrainState | None) -> WeightsReply:
    """The part of a trained denoiser that a request asks for; nothing of one that was not trained."""
    if state is None:
        return WeightsReply(numbers, {}, {})

    def part(weights: Weights) -> Weights:
        return {name: weights[name] for name in part_names(weights, request.part)}

    averaged = part(state.averaged()) if request.want_averaged else {}
    return WeightsReply(numbers, part(state.network.state_dict()), averaged)
