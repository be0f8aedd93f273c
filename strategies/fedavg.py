"""The server side of federated averaging, of a whole denoiser or of its parts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.diffusion.partial_sharing import part_names, shared_names, uploaded_part
from collafuse_flwr.diffusion.unet import save_backbone
from collafuse_flwr.runs.history import Checkpoint
from collafuse_flwr.setup.training_budget import averaging_rounds
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.common import ClientInfo
from collafuse_flwr.wire.fedavg import WeightsHandoff, WeightsReply, WeightsRequest
from strategies.diffusion_base import DiffusionStrategy
from strategies.private_average import make_aggregator
from strategies.server_model import ServerWork, weights


class PartialFedAvg(DiffusionStrategy, FedAvg):
    """Flower's FedAvg over denoisers of the whole chain; also FedProx, USplit, ULatDec and UDec, by `strategy`.

    FedProx differs in what clients descend, the others in which weights are shared. In a round that is evaluated the
    clients' averaged weights (EMA) are averaged as well, and these generate, as they do in every other strategy.
    """

    train_reply = WeightsReply
    network: nn.Module
    shared: Weights
    averaged: Weights

    def __init__(self, config: Config, folder: Path, progress: Progress, clients: Callable[[int], Any]) -> None:
        DiffusionStrategy.__init__(self, config, folder, progress, clients)
        FedAvg.__init__(self)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the weights that came and average them."""
        row, began = self.history.rounds[-1], time.perf_counter()
        self.aggregator.begin(dict(self.shared), (self._part(client, row.round)[0] for client in self.selected))
        self._gather_training(replies)
        trained, averaged = self.aggregator.mean()
        self.shared |= trained
        self.averaged = self.shared | averaged
        row.server = asdict(ServerWork(math.nan, 0, 0, time.perf_counter() - began, 0)) | {"pool": 0}
        return self._arrays(), self._close_training()

    def save(self) -> None:
        """Write the averaged denoiser as a diffusers folder, if the clients share the whole of it."""
        if self.averaged.keys() == self.network.state_dict().keys():
            self.network.load_state_dict(self.averaged)
            folder = self.layout.backbone
            save_backbone(self.network, folder, self.setup.schedule, self.setup.objective.prediction)

    def _build(self, client_info: ClientInfo) -> None:
        self.network = self.setup.denoiser(0, *client_info.shape)
        #: What clients start from, with the parts that they do not share; empty where they start from scratch. A run
        #: that goes on has it in its checkpoint.
        self.public_start = {} if self.history.rounds else self._load_start(self.network)
        whole = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
        whole |= self.public_start
        shared = shared_names(self.config.spec.shared_parts, whole)
        if not shared:
            allowed = "one that averages whole networks: this network is no U-Net of diffusers"
            raise SettingError("strategy", self.config.run.strategy, allowed)
        self.shared = {name: whole[name] for name in shared}
        self.averaged = dict(self.shared)
        simulated = self.layout.clients.is_dir()
        self.aggregator = make_aggregator(self, self.shared, self.config, simulated=simulated)
        sizes = [own.num_images for own in self.client_manager.client_infos.values()]
        values = client_info.channels * client_info.size**2
        per_client = sum(sizes) / len(sizes)
        self.exchanges = averaging_rounds(
            self.config, per_client, values, _bytes(self.shared), _bytes(whole), client_info.num_attributes
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        shared, averaged = (checkpoint.tensors[part] for part in ("shared", "averaged"))
        self.shared = {name: shared[name].cpu() for name in self.shared}
        self.averaged = {name: averaged[name].cpu() for name in self.shared}
        self.public_start = {name: value.cpu() for name, value in checkpoint.tensors.get("start", {}).items()}

    def _checkpoint(self) -> Checkpoint:
        # Copies, for safetensors refuse tensors that share their memory.
        parts = {"averaged": self.averaged, "start": self.public_start}
        copies = {part: {name: value.clone() for name, value in held.items()} for part, held in parts.items()}
        return Checkpoint({"shared": self.shared} | copies)

    def _arrays(self) -> ArrayRecord:
        return ArrayRecord(self.shared)

    def _load_initial(self, arrays: ArrayRecord) -> None:
        self.shared |= weights(arrays)

    def _train_request(self, client: int, round_: int) -> WeightsRequest:
        """The shared weights, if they are new since the last round, and a request for the client's part of them."""
        # All begin with the same weights, so where traffic is counted out the first round needs none.
        fresh = round_ - 1 in self.exchanges or (round_ == 1 and self.config.train.match != "traffic")
        part, want_averaged = self._part(client, round_)
        sent = weights(self.arrays) if fresh else {}
        rest = {} if self._has_begun(client) else {n: x for n, x in self.public_start.items() if n not in sent}
        return WeightsRequest(
            round=round_,
            num_rounds=self.config.run.num_rounds,
            weights=sent,
            part=part,
            want_averaged=want_averaged,
            backbone=ArrayRecord(rest) if rest else None,
        )

    def _has_begun(self, client: int) -> bool:
        """Whether a client has trained in some round."""
        return any(str(client) in past.clients for past in self.history.rounds)

    def _before_evaluation(self, grid: Grid, round_: int) -> None:
        """Leave out who has not begun and would make its samples, in part, from scratch and not from the start."""
        if self.public_start.keys() - self.averaged.keys():
            self.selected = [client for client in self.selected if self._has_begun(client)]

    def _part(self, client: int, round_: int) -> tuple[str, bool]:
        """Which part a client is to send after a round, and whether its averaged weights too."""
        if round_ not in self.exchanges:
            return "none", False
        averaged = self.config.evaluates(round_) and not self.config.averaging.clip_norm
        return uploaded_part(self.config.spec.shared_parts, client, round_), averaged

    def _accept_training(self, client: int, reply: WeightsReply) -> None:
        row = self.history.rounds[-1]
        part, want_averaged = self._part(client, row.round)
        self.aggregator.check(reply, part_names(self.shared, part), want_averaged)
        self.aggregator.add(client, self.client_manager.client_infos[client].num_images, reply)
        row.clients[str(client)] = asdict(reply.metrics)

    def _evaluate_request(self, client: int, round_: int, count: int) -> tuple[WeightsHandoff, Tensor]:
        """Noise x_T to start from, and the averaged weights, unless nothing was ever exchanged."""
        client_info = self.client_manager.client_infos[client]
        generator = named_generator(self.config.run.seed, "hand over", client, round_, "x_T")
        x_t = torch.randn((count, client_info.channels, client_info.size, client_info.size), generator=generator)
        return WeightsHandoff(round=round_, x_k=x_t, averaged=self.averaged if self.exchanges else {}), x_t


def _bytes(held: Weights) -> int:
    return sum(value.numel() * value.element_size() for value in held.values())
