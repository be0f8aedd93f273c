"""The client side of the hybrid: CollaFuse's, whose low-noise denoiser is averaged with those of the others."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import RecordDict

from collafuse_flwr.client.collafuse import CollaFuseClient
from collafuse_flwr.client.fedavg import wanted_weights
from collafuse_flwr.wire.codec import pack_numbers
from collafuse_flwr.wire.collafuse import TrainReply, pack_train_reply, unpack_train_request
from collafuse_flwr.wire.fedavg import merge, pack_weights_reply, unpack_weights_handoff, unpack_weights_request


@dataclass(frozen=True)
class HybridClient(CollaFuseClient):
    """CollaFuse for t > k and FedAvg for t <= k: more traffic, and weights that leave the client."""

    def on_train(self, content: RecordDict) -> RecordDict:
        """Answer a message of type train."""
        request, shared = unpack_train_request(content), unpack_weights_request(content)
        result = self._round(
            request.round, request.num_rounds, request.want_upload, request.weights(), weights=shared.weights
        )
        trained = result.state if result.numbers.steps else None
        reply = pack_train_reply(TrainReply(result.numbers, result.upload))
        return merge(reply, pack_weights_reply(wanted_weights(shared, result.numbers, trained)))

    def on_evaluate(self, content: RecordDict) -> RecordDict:
        """Answer a message of type evaluate."""
        received = unpack_weights_handoff(content)
        return pack_numbers(self._evaluate(received.handoff, received.averaged))
