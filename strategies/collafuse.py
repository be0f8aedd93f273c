"""The server side of CollaFuse as a Flower strategy: pool noised uploads, train the backbone, hand samples over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from safetensors.torch import save_file
from torch import Tensor

from collafuse_flwr.config import Config
from collafuse_flwr.contract import UploadContract, check_upload
from collafuse_flwr.effort import init_round, takes_backbone, updates_per_round
from collafuse_flwr.errors import UploadError, UserError
from collafuse_flwr.files import replacing
from collafuse_flwr.process import Process
from collafuse_flwr.progress import Progress
from collafuse_flwr.rng import stream
from collafuse_flwr.runtime import available_cores, threads
from collafuse_flwr.wire import (
    HandOver,
    Hello,
    TrainRequest,
    count_bytes,
    pack_hand_over,
    pack_train_request,
    unpack_evaluate_reply,
    unpack_refusal,
    unpack_train_reply,
)
from strategies.backbone import Backbone, weights
from strategies.journal import Journal, Round
from strategies.members import Members, last_line
from strategies.pool import Pool

#: Hand-overs of each client that are kept for the picture.
KEPT_HAND_OVERS = 32


class CollaFuse(Strategy):
    """CollaFuse (arXiv 2406.14429) with exact training of the backbone from x_k alone.

    The global arrays are the backbone's averaged weights. It is used as any Flower strategy::

        strategy = CollaFuse(config, folder, Progress(...))
        arrays = strategy.join(grid)
        strategy.start(grid, arrays, num_rounds=strategy.rounds_left)

    `join` waits for the clients and takes up a checkpoint in the folder, if there is one; rounds that it holds are not
    run again.
    """

    def __init__(self, config: Config, folder: Path, progress: Progress) -> None:
        self.config, self.folder, self.progress = config, folder, progress
        self.process = Process.of(config)
        self.members = Members(config)
        self.journal = Journal(folder)
        self.done = 0
        self.backbone: Backbone
        self.pool: Pool
        self.asked: list[int] = []

    @property
    def rounds_left(self) -> int:
        """Rounds still to run."""
        return self.config.run.num_rounds - self.done

    def join(self, grid: Grid) -> ArrayRecord:
        """Wait for clients, build the backbone for their images and take up a checkpoint; the arrays to start with.

        Raises:
            UserError: clients do not come in time, or none can take part.
        """
        saved = self.journal.load()
        self.members.restore(self.journal.hellos.values())
        self.members.wait(grid)
        hello = next(iter(self.members.hellos.values()))
        with self._threads():
            self.backbone = Backbone(self.process, hello.channels, hello.size, hello.num_classes)
            row = (hello.channels, hello.size, hello.size)
            device = self.process.runtime.device
            self.pool = Pool(self.folder / "server" / "pool", row, self.config.split.upload_dtype, device)
            if saved is not None:
                tensors, pool = saved
                self.backbone.state.load({name: value.to(device) for name, value in tensors.items()})
                self.pool.restore(pool)
                self.done = len(self.journal.rounds)
                self.journal.write_metrics()
        return self.backbone.arrays()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask this round's clients to train; for their upload if the pool lacks it; give the backbone to starters."""
        if server_round == 1 and not self.journal.rounds:
            self.backbone.begin_with(arrays)
        self.members.welcome(grid)
        round_ = self.done + 1
        self.journal.rounds.append(Round(round_))
        self.asked = self.members.choose(round_)
        self.journal.rounds[-1].images = {str(c): self.members.hellos[c].num_images for c in self.asked}
        self.progress.begin_round(round_, self.config.run.num_rounds, len(self.asked))
        return [self._train_message(client, round_, arrays) for client in self.asked]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the uploads, pool them, and train the backbone on the pool for this round's share of the updates."""
        row = self.journal.rounds[-1]
        self._gather(replies, self._accept_training)
        if not row.clients and not len(self.pool):
            raise UserError(f"no client contributed in round {row.round}: {_any_reason(row)}")
        with self._threads():
            work = self.backbone.train(self.pool, row.round, self.config.run.num_rounds, self._steps(), self.progress)
        row.server = asdict(work) | {"pool": len(self.pool)}
        losses = [client["loss"] for client in row.clients.values() if client["steps"]]
        self.progress.end_round(
            row.round, work.loss if work.steps else None, losses, len(row.failed) + len(row.rejected)
        )
        metrics = MetricRecord({"backbone-loss": work.loss} if work.steps else {})
        if losses:
            metrics["client-loss"] = sum(losses) / len(losses)
        return self.backbone.arrays(), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Run the server's half of generation and hand every client its samples, in the rounds that evaluate."""
        round_, every = self.journal.rounds[-1].round, self.config.evaluation.evaluate_every
        self.asked = []
        if round_ != self.config.run.num_rounds and not (every and round_ % every == 0):
            return []
        self.members.welcome(grid)
        self.asked = sorted(self.members.nodes)
        with self._threads():
            return self._hand_over(arrays, round_)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Note what the clients say about their samples, and close the round with a checkpoint."""
        row = self.journal.rounds[-1]
        self._gather(replies, self._accept_evaluation)
        self.done = row.round
        self.journal.hellos = dict(sorted(self.members.hellos.items()))
        self.journal.save({n: v.cpu() for n, v in self.backbone.state.tensors().items()}, self.pool.describe())
        if not row.evaluation:
            return None
        return MetricRecord({f"held-out-loss-{c}": e["held_out_loss"] for c, e in row.evaluation.items()})

    def save(self) -> None:
        """Write the backbone, with its averaged weights, as a diffusers folder."""
        self.backbone.save(self.folder / "server" / "backbone")

    def summary(self) -> None:
        """Say what is about to run."""
        cuts = sorted({hello.cut_step for hello in self.members.hellos.values()})
        self.progress.say(
            f"CollaFuse: {len(self.members.hellos)} clients, cut step {', '.join(map(str, cuts))} of "
            f"{self.process.schedule.timesteps}, {self.rounds_left} rounds on {self.process.runtime.device}"
        )

    def _threads(self) -> AbstractContextManager[None]:
        return threads(self.config.federation.server_threads or available_cores())

    def _train_message(self, client: int, round_: int, arrays: ArrayRecord) -> Message:
        hello, row = self.members.hellos[client], self.journal.rounds[-1]
        uploads = hello.cut_step < hello.timesteps
        begins = takes_backbone(self.config, hello.cut_step) and client not in self.journal.initialised
        sends = begins and round_ >= init_round(self.config, self.config.run.num_rounds)
        content = pack_train_request(
            TrainRequest(
                round=round_,
                num_rounds=self.config.run.num_rounds,
                want_upload=uploads and (client not in self.pool or self.config.split.upload != "once"),
                backbone=weights(arrays) if sends else None,
            )
        )
        row.count(row.bytes_down, client, count_bytes(content))
        return Message(content, self.members.nodes[client], "train", group_id=str(round_))

    def _gather(self, replies: Iterable[Message], accept: Callable[[int, RecordDict], None]) -> None:
        """Accept each reply, in order of clients; a bad or missing one is noted and costs only itself."""
        row = self.journal.rounds[-1]
        arrived = {self.members.client_of(reply.metadata.src_node_id): reply for reply in replies}
        for client in self.asked:
            reply = arrived.get(client)
            if reply is None:
                row.failed[str(client)] = f"no reply within {self.config.federation.round_timeout:g} seconds"
            elif reply.has_error():
                row.failed[str(client)] = last_line(reply.error.reason)
            elif (refusal := unpack_refusal(reply.content)) is not None:
                row.failed[str(client)] = refusal.reason
            else:
                row.count(row.bytes_up, client, count_bytes(reply.content))
                try:
                    accept(client, reply.content)
                except UploadError as error:
                    row.rejected[str(client)] = str(error)

    def _accept_training(self, client: int, content: RecordDict) -> None:
        """Take in one client's reply.

        Raises:
            UploadError: something in it does not fit; nothing of it was used.
        """
        reply, hello, row = unpack_train_reply(content), self.members.hellos[client], self.journal.rounds[-1]
        if reply.upload is not None:
            check_upload(reply.upload, self._contract(hello))
            self.pool.put(client, hello.cut_step, reply.upload)
        row.clients[str(client)] = asdict(reply.numbers)
        if takes_backbone(self.config, hello.cut_step) and row.round >= init_round(
            self.config, self.config.run.num_rounds
        ):
            self.journal.initialised.add(client)

    def _accept_evaluation(self, client: int, content: RecordDict) -> None:
        reply, hello = unpack_evaluate_reply(content), self.members.hellos[client]
        flops = self.backbone.hand_over_flops(hello.cut_step) if hello.cut_step < hello.timesteps else 0
        self.journal.rounds[-1].evaluation[str(client)] = asdict(reply) | {"server_flops_per_image": flops}

    def _contract(self, hello: Hello) -> UploadContract:
        split = self.config.split
        return UploadContract(
            rows=hello.num_images * split.copies_per_image,
            channels=hello.channels,
            size=hello.size,
            num_classes=hello.num_classes,
            labels=split.share_labels,
            dtype=split.upload_dtype,
            alpha_bar=float(self.process.schedule.alpha_bar[hello.cut_step]),
        )

    def _steps(self) -> int:
        """The backbone's steps of this round: every pooled client's share of updates above its cut, whole batches."""
        if not len(self.pool):
            return 0
        for client in self.pool.shares:
            hello = self.members.hellos[client]
            share = 1 - hello.cut_step / hello.timesteps
            self.journal.credit += updates_per_round(self.config, hello.num_images, share)
        steps = int(self.journal.credit // self.config.train.batch_size)
        self.journal.credit -= steps * self.config.train.batch_size
        return steps

    def _hand_over(self, arrays: ArrayRecord, round_: int) -> list[Message]:
        hellos = [self.members.hellos[client] for client in self.asked]
        total = sum(hello.num_images for hello in hellos)
        messages, shown = [], {}
        for done, hello in enumerate(hellos):
            self.progress.step("sampling", done, len(hellos))
            count = max(2, round(self.config.evaluation.num_samples * hello.num_images / total))
            client, name = hello.partition_id, (self.config.run.seed, "hand over", hello.partition_id, round_)
            labels = self._labels_for(client, count, name)
            x_k = self.backbone.hand_over(arrays, hello.cut_step, count, labels, name)
            shown[str(client)] = x_k[:KEPT_HAND_OVERS].clone()
            content = pack_hand_over(HandOver(round_, x_k, labels))
            row = self.journal.rounds[-1]
            row.count(row.bytes_down, client, count_bytes(content))
            messages.append(Message(content, self.members.nodes[client], "evaluate", group_id=str(round_)))
        with replacing(self.folder / "server" / "hand_over.safetensors") as temporary:
            save_file(shown, temporary)
        return messages

    def _labels_for(self, client: int, count: int, name: tuple[int | str, ...]) -> Tensor | None:
        """Classes for a client's samples, as often as among the labels it shared; None where none were."""
        if not self.backbone.conditional or not len(self.pool):
            return None
        holders = [client] if client in self.pool else sorted(self.pool.shares)
        known = [labels for holder in holders if (labels := self.pool.labels_of(holder)) is not None]
        pooled = torch.cat(known)
        return pooled[torch.randint(0, len(pooled), (count,), generator=stream(*name, "labels"))]


def _any_reason(row: Round) -> str:
    """One client's reason for contributing nothing."""
    return next(iter([*row.failed.values(), *row.rejected.values()]), "nobody was asked")
