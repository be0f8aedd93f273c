"""The server side of the hybrid: CollaFuse for t > k, and the mean of the clients' denoisers for t <= k."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from collafuse_flwr.diffusion.partial_sharing import part_names
from collafuse_flwr.runs.history import Checkpoint
from collafuse_flwr.setup.training_budget import client_start_round
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.collafuse import TrainReply
from collafuse_flwr.wire.common import ClientInfo
from collafuse_flwr.wire.fedavg import HybridReply, HybridRequest, WeightsHandoff
from strategies.collafuse import CollaFuse
from strategies.private_average import make_aggregator
from strategies.server_model import weights


class Hybrid(CollaFuse):
    """CollaFuse whose clients' denoisers are averaged after each round in which they train.

    Clients with different cuts share one denoiser: all networks have the parametrisation of the global chain. `shared`
    and `averaged` are the means of the trained and of the averaged (EMA) weights, empty before the first exchange.
    """

    train_reply = HybridReply
    shared: Weights
    averaged: Weights

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """CollaFuse's round, then the mean of what the clients trained."""
        round_ = self.history.rounds[-1].round
        parts = (self._part(client, round_)[0] for client in self.selected)
        self.aggregator.begin(self.shared or self._common_start(), parts)
        result = super().aggregate_train(server_round, replies)
        trained, averaged = self.aggregator.mean()
        self.shared, self.averaged = trained or self.shared, averaged or self.averaged
        return result

    def _build(self, client_info: ClientInfo) -> None:
        super()._build(client_info)
        network = self.setup.denoiser(0, *client_info.shape)
        like = {name: value.cpu() for name, value in network.state_dict().items()}
        simulated = self.layout.clients.is_dir()
        self.aggregator = make_aggregator(FedAvg(), like, self.config, simulated=simulated)
        self.shared, self.averaged = {}, {}

    def _restore(self, checkpoint: Checkpoint) -> None:
        super()._restore(checkpoint)
        shared, averaged = (checkpoint.tensors.get(part, {}) for part in ("shared", "averaged"))
        self.shared = {name: value.cpu() for name, value in shared.items()}
        self.averaged = {name: value.cpu() for name, value in averaged.items()}

    def _checkpoint(self) -> Checkpoint:
        own = super()._checkpoint()
        return Checkpoint(own.tensors | {"shared": self.shared, "averaged": self.averaged}, own.state)

    def _train_request(self, client: int, round_: int) -> HybridRequest:
        part, want_averaged = self._part(client, round_)
        own = vars(super()._train_request(client, round_))
        shared = self.shared
        if self.config.averaging.clip_norm and part != "none":
            shared = shared or self._common_start()
        return HybridRequest(**own, weights=shared, part=part, want_averaged=want_averaged)

    def _common_start(self) -> Weights:
        """What all clients begin at where they send updates of it: the backbone, public weights, or client 0's."""
        start = self.arrays if self.config.client.init_from == "backbone" else self.public_start
        own = self.aggregator.like
        started = {} if start is None else weights(start)
        return own | {name: value for name, value in started.items() if name in own and value.shape == own[name].shape}

    def _part(self, client: int, round_: int) -> tuple[str, bool]:
        """All weights of clients that train in a round, and the averaged ones in a round that is evaluated."""
        trains = self.client_manager.client_infos[client].cut_step > 0 and round_ >= client_start_round(
            self.config, self.config.run.num_rounds
        )
        averaged = self.config.evaluates(round_) and not self.config.averaging.clip_norm
        return ("all", averaged) if trains else ("none", False)

    def _accept_training(self, client: int, reply: TrainReply) -> None:
        assert isinstance(reply, HybridReply)
        part, want_averaged = self._part(client, self.history.rounds[-1].round)
        self.aggregator.check(reply, part_names(self.aggregator.like, part), want_averaged)
        super()._accept_training(client, reply)
        self.aggregator.add(client, self.client_manager.client_infos[client].num_images, reply)

    def _evaluate_request(self, client: int, round_: int, count: int) -> tuple[WeightsHandoff, Tensor]:
        handoff, x_k = super()._evaluate_request(client, round_, count)
        return WeightsHandoff(**vars(handoff), averaged=self.averaged), x_k
