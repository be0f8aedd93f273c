"""The server side of the hybrid: CollaFuse for t > k, and the mean of the clients' denoisers for t <= k."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from collafuse_flwr.config.training_budget import client_start_round
from collafuse_flwr.diffusion.partial_sharing import part_names
from collafuse_flwr.wire.collafuse import ClientInfo, unpack_handoff
from collafuse_flwr.wire.fedavg import (
    Weights,
    WeightsHandoff,
    WeightsRequest,
    merge,
    pack_weights_handoff,
    pack_weights_request,
    split_hybrid_reply,
    unpack_weights_reply,
)
from strategies.aggregation import WeightAggregator
from strategies.collafuse import CollaFuse


class Hybrid(CollaFuse):
    """CollaFuse whose clients' denoisers are averaged after each round in which they train.

    Clients with different cuts share one denoiser: all networks have the parametrisation of the global chain. `shared`
    and `averaged` are the means of the trained and of the averaged (EMA) weights, empty before the first exchange.
    """

    shared: Weights
    averaged: Weights

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """CollaFuse's round, then the mean of what the clients trained."""
        result = super().aggregate_train(server_round, replies)
        trained, averaged = self.aggregator.mean()
        self.shared, self.averaged = trained or self.shared, averaged or self.averaged
        return result

    def _build(self, client_info: ClientInfo) -> None:
        super()._build(client_info)
        network = self.setup.denoiser(
            0, client_info.channels, client_info.size, client_info.num_classes, client_info.num_attributes
        )
        self.aggregator = WeightAggregator(
            FedAvg(), {name: value.cpu() for name, value in network.state_dict().items()}
        )
        self.shared, self.averaged = {}, {}

    def _restore(self, tensors: dict[str, Tensor], pool: str) -> None:
        kept = {kind: {n: v.cpu() for n, v in _under(kind, tensors).items()} for kind in ("shared", "averaged")}
        self.shared, self.averaged = kept["shared"], kept["averaged"]
        super()._restore({n: v for n, v in tensors.items() if not n.startswith(("shared.", "averaged."))}, pool)

    def _checkpoint(self) -> tuple[dict[str, Tensor], str]:
        tensors, pool = super()._checkpoint()
        shared = {f"shared.{name}": value for name, value in self.shared.items()}
        return tensors | shared | {f"averaged.{name}": value for name, value in self.averaged.items()}, pool

    def _train_content(self, client: int, round_: int, arrays: ArrayRecord) -> RecordDict:
        request = WeightsRequest(round_, self.config.run.num_rounds, self.shared, *self._part(client, round_))
        return merge(super()._train_content(client, round_, arrays), pack_weights_request(request))

    def _part(self, client: int, round_: int) -> tuple[str, bool]:
        """All weights of clients that train in a round, and the averaged ones in a round that is evaluated."""
        trains = self.client_manager.client_infos[client].cut_step > 0 and round_ >= client_start_round(
            self.config, self.config.run.num_rounds
        )
        return ("all", self._is_eval_round(round_)) if trains else ("none", False)

    def _accept_training(self, client: int, content: RecordDict) -> None:
        own, shared = split_hybrid_reply(content)
        part, want_averaged = self._part(client, self.history.rounds[-1].round)
        names = part_names(self.aggregator.like, part)
        reply = unpack_weights_reply(shared)
        self.aggregator.check(reply, names, want_averaged)
        super()._accept_training(client, own)
        self.aggregator.add(client, self.client_manager.client_infos[client].num_images, reply)

    def _evaluate_content(self, client: int, round_: int, count: int, arrays: ArrayRecord) -> tuple[RecordDict, Tensor]:
        content, x_k = super()._evaluate_content(client, round_, count, arrays)
        return pack_weights_handoff(WeightsHandoff(unpack_handoff(content), self.averaged)), x_k


def _under(kind: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{kind}."): value for name, value in tensors.items() if name.startswith(f"{kind}.")}
