"""The server's half of generating after training: samples from T down to each client's cut, as often as allowed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid
from torch import Tensor, nn

from collafuse_flwr.config.checks import check_guidance
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import append_json_lines, read_appended
from collafuse_flwr.core.errors import RunFailed, SettingError, UploadError, UserError
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import available_cores, threads
from collafuse_flwr.core.text import last_line
from collafuse_flwr.diffusion.settings import GenerateConfig
from collafuse_flwr.runs.history import History
from collafuse_flwr.runs.loaded_run import load_trained, open_pool, refuse_gan
from collafuse_flwr.runs.run_dir import read_config
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.runs.upload_buffer import UploadBuffer
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.wire.codec import decode, encode
from collafuse_flwr.wire.common import ClientInfo
from collafuse_flwr.wire.generation import (
    CLIENTS_OWN,
    OPERATORS,
    Generated,
    GenerateHandoff,
    ImagesWanted,
    WantedRequest,
)
from strategies.client_manager import ClientManager, failure
from strategies.held_replies import ReplyBounds
from strategies.retry_grid import RetryGrid

M = TypeVar("M")


@dataclass(frozen=True, eq=False)
class TrainedServer:
    """What the server of a run has that has come to an evaluation, be it over or not."""

    layout: RunLayout
    config: Config
    client_infos: Mapping[int, ClientInfo]
    pool: UploadBuffer | None

    @classmethod
    def of(cls, folder: Path, setting: str) -> TrainedServer:
        """Open the folder of a run, which a setting names.

        Raises:
            SettingError: it holds none that has come to an evaluation, or one of a GAN.
            UserError: it cannot be read.
        """
        config, layout, history = read_config(folder, setting), RunLayout(folder), History(folder)
        refuse_gan(config, folder, setting)
        checkpoint = history.load()
        evaluated = any(row.evaluation for row in history.rounds)
        above = any(own.cut_step < own.timesteps for own in history.client_infos.values())
        if checkpoint is None or not evaluated or (above and not layout.backbone.is_dir()):
            raise SettingError(setting, str(folder), "the folder of a run that has come to an evaluation")
        pool = open_pool(layout.pool, config, next(iter(history.client_infos.values())), checkpoint)
        return cls(layout, config, history.client_infos, pool)

    @cached_property
    def backbone(self) -> nn.Module:
        """The averaged backbone; the images of all clients are of one shape.

        Raises:
            SettingError: it is not there.
        """
        shape = next(iter(self.client_infos.values())).shape
        return load_trained(diffusion_setup(self.config).backbone(*shape), self.layout.backbone)

    def check(self, wanted: GenerateConfig) -> None:
        """Refuse what this run cannot make.

        Raises:
            SettingError: it has no such client or class, or its networks cannot be guided.
        """
        if wanted.client not in {-1, *self.client_infos}:
            allowed = f"-1 for all, or one of the run's clients, {', '.join(map(str, sorted(self.client_infos)))}"
            raise SettingError("generate.client", wanted.client, allowed)
        check_guidance(self.config, self.guidance(wanted.guidance))
        info = next(iter(self.client_infos.values()))
        classes = info.num_classes if self.config.data.conditioning == "classes" else 0
        if wanted.label >= classes:
            allowed = f"-1 for all, or one of 0..{classes - 1}" if classes else "-1: the networks know no classes"
            raise SettingError("generate.label", wanted.label, allowed)

    def guidance(self, requested: float) -> float:
        """The weight of the condition; below 0 stands for the run's own."""
        return self.config.sampling.guidance_scale if requested < 0 else requested

    def handoff(
        self, client: int, wanted: GenerateConfig, labels: Tensor | None = None, round_: int = OPERATORS
    ) -> GenerateHandoff:
        """Samples from T down to a client's cut, with the averaged backbone of the last evaluation.

        Where the backbone is conditioned, `labels` are those of the samples; None: all of `wanted.label`, or as often
        as the client shared them.

        Raises:
            SettingError: the run has no backbone.
        """
        info, setup = self.client_infos[client], diffusion_setup(self.config)
        name, count, guidance = (wanted.seed, "generate", client), wanted.num_images, self.guidance(wanted.guidance)
        conditions, backbone = None, None
        x = torch.randn((count, info.channels, info.size, info.size), generator=named_generator(*name, "x_T"))
        with threads(self.config.resources.server_threads or available_cores()):
            if info.cut_step < info.timesteps:
                if self.config.shares_labels():
                    conditions = self._labels(client, wanted, name) if labels is None else labels
                grid = setup.server_grid(info.cut_step)
                show = f"steps of the server for client {client}"
                x = setup.sample(self.backbone, x, grid, conditions, (*name, "server"), guidance, show=show)
        if setup.chooses_handover(info.cut_step):
            backbone = ArrayRecord(self.backbone.state_dict())
        return GenerateHandoff(
            round=round_,
            x_k=x,
            labels=conditions,
            backbone=backbone,
            label=wanted.label,
            guidance=guidance,
            seed=wanted.seed,
        )

    def _labels(self, client: int, wanted: GenerateConfig, name: tuple[int | str, ...]) -> Tensor | None:
        if wanted.label >= 0:
            return torch.full((wanted.num_images,), wanted.label)
        assert self.pool is not None, "a backbone that is conditioned was trained on uploads"
        return self.pool.draw_labels(client, wanted.num_images, named_generator(*name, "labels"))


@dataclass
class HandedOver:
    """How many images were begun for each client in all runs that generated, on the disk before they are."""

    path: Path
    run: int
    most: int

    def count(self, client: int) -> int:
        """The images that were begun for a client.

        Raises:
            UserError: the file is damaged.
        """
        try:
            return sum(int(row["images"]) for row in read_appended(self.path) if row["client"] == client)
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{self.path} is damaged: restore it from a backup") from None

    def refusal(self, client: int, images: int) -> str:
        """Why so many more are not begun for a client; empty if they may be."""
        before = self.count(client)
        if not self.most or before + images <= self.most:
            return ""
        return f"`generate.max_per_client` = {self.most} leaves no {images} images more: it has had {before}"

    def add(self, client: int, images: int) -> None:
        """Note that so many are begun."""
        row = {"time": int(time.time()), "run": str(self.run), "client": client, "images": images}
        append_json_lines(self.path, [row])


@dataclass
class GenerationRun:
    """One run that generates: who wants what, and what came of it."""

    config: Config
    server: TrainedServer
    grid: Grid
    manager: ClientManager
    progress: Progress
    run: int
    generated: Counter[int] = field(default_factory=Counter)
    lost: dict[int, str] = field(default_factory=dict)

    def serve(self, round_: int, wanted: Mapping[int, GenerateConfig]) -> None:
        """Hand over what some clients are to have, and note what they say."""
        handed = HandedOver(self.server.layout.handed_over, self.run, self.config.generate.max_per_client)
        requests: dict[int, object] = {}
        if wanted:
            self.progress.say(f"sampling down to the cuts of {len(wanted)} clients ...")
        for client, own in sorted(wanted.items()):
            try:
                self.server.check(own)
            except SettingError as error:
                self.lost[client] = str(error)
                continue
            if refusal := handed.refusal(client, own.num_images):
                self.lost[client] = refusal
                continue
            handed.add(client, own.num_images)
            requests[client] = self.server.handoff(client, own, round_=round_)
        for client, reply in self.ask("query.generate", requests, Generated).items():
            if reply.num_images != wanted[client].num_images:
                self.lost[client] = f"it made {reply.num_images} of {wanted[client].num_images} images"
            else:
                self.generated[client] += reply.num_images

    def ask(self, kind: str, requests: Mapping[int, object], reply: type[M]) -> dict[int, M]:
        """What clients answer; those who do not are noted."""
        nodes, timeout = self.manager.nodes, self.config.federation.round_timeout
        messages = [Message(encode(request), nodes[client], kind) for client, request in requests.items()]
        answers: dict[int, M] = {}
        replies = {self.manager.client_of(own.metadata.src_node_id): own for own in self._sent(messages, timeout)}
        for client in requests:
            own = replies.get(client)
            if reason := failure(own, timeout):
                self.lost[client] = reason
            elif own is not None:
                try:
                    answers[client] = decode(reply, own.content)
                except UploadError as error:
                    self.lost[client] = last_line(str(error))
        return answers

    def sensible(self, client: int, request: ImagesWanted) -> bool:
        """Whether a client wants images that there can be; what is no number of them, or no seed, is noted."""
        if request.num_images < 0 or request.label < -1 or request.seed < 0:
            self.lost[client] = f"it wants what there is not: {request}"
            return False
        return request.num_images > 0

    def _sent(self, messages: list[Message], timeout: float) -> list[Message]:
        return list(self.grid.send_and_receive(messages, timeout=timeout)) if messages else []


def generate_together(config: Config, grid: Grid, progress: Progress, run: int) -> None:
    """Have the clients of the run in `output` finish images that its backbone begins, each on its own disk.

    First come what the operator wants for them (`generate.num_images`), then what they want for themselves.

    Raises:
        UserError: the folder holds no such run, clients do not come in time, or nobody made any image.
    """
    if not config.run.output:
        raise SettingError("output", "", "the folder of the run that has trained, when `task` is generate")
    server = TrainedServer.of(RunLayout.of(config, run).folder, "output")
    wanted = config.generate
    server.check(wanted)
    chosen = sorted(server.client_infos) if wanted.client < 0 else [wanted.client]
    waiting = replace(
        server.config.federation,
        min_available_nodes=config.federation.min_available_nodes,
        round_timeout=config.federation.round_timeout,
        max_reply_mb=config.federation.max_reply_mb,
        max_replies_mb=config.federation.max_replies_mb,
    )
    manager = ClientManager(replace(server.config, federation=waiting))
    manager.restore(server.client_infos.values())
    bounded = RetryGrid(grid, ReplyBounds.of(waiting))
    awaited = chosen if wanted.client >= 0 or not config.federation.min_available_nodes else []
    manager.wait(bounded, awaited, say=progress.say)
    going = GenerationRun(config, server, bounded, manager, progress, run)
    present = [client for client in chosen if client in manager.nodes]
    own = going.ask("query.images_wanted", dict.fromkeys(present, WantedRequest()), ImagesWanted)
    if wanted.num_images:
        going.serve(OPERATORS, dict.fromkeys(present, wanted))
    requested = {
        client: GenerateConfig(num_images=request.num_images, label=request.label, seed=request.seed)
        for client, request in own.items()
        if going.sensible(client, request)
    }
    going.serve(CLIENTS_OWN, requested)
    _report(going, progress)


def _report(going: GenerationRun, progress: Progress) -> None:
    """Say what each client has, and why others have nothing.

    Raises:
        RunFailed: nobody has anything, though somebody was to.
    """
    reasons = [*going.lost.values(), *going.manager.refused.values()]
    for client, images in sorted(going.generated.items()):
        progress.say(f"client {client}: {images} images, in generated/ of its own state")
    for client, reason in sorted(going.lost.items()):
        progress.say(f"client {client}: {reason}")
    for reason in dict.fromkeys(going.manager.refused.values()):
        progress.say(f"a client cannot take part: {reason}")
    if not going.generated and reasons:
        raise RunFailed(f"nobody has made any image: {reasons[0]}")
    if not going.generated:
        progress.say("nobody wants any image")
