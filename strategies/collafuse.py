"""The server side of CollaFuse as a Flower strategy: pool noised uploads, train the backbone, hand samples over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from collafuse_flwr.contract import UploadContract, check_upload
from collafuse_flwr.effort import init_round, takes_backbone, updates_per_round
from collafuse_flwr.rng import stream
from collafuse_flwr.wire import HandOver, Hello, TrainRequest, pack_hand_over, pack_train_request, unpack_train_reply
from strategies.backbone import Backbone, ServerWork
from strategies.federation import Federation
from strategies.pool import Pool


class CollaFuse(Federation, Strategy):
    """CollaFuse (arXiv 2406.14429) with exact training of the backbone from x_k alone.

    The global arrays are the backbone's averaged weights. At c = 0 it is centralised training, at c = 1 local training,
    and with clipped images PFDM (arXiv 2504.00952).
    """

    backbone: Backbone
    pool: Pool

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the uploads, pool them, and train the backbone on the pool for this round's share of the updates."""
        row = self.journal.rounds[-1]
        self._gather(replies, self._accept_training)
        if not row.clients and not len(self.pool):
            raise self._nobody()
        with self._threads():
            work = self._train_backbone(row.round, self._steps())
        row.server = asdict(work) | {"pool": len(self.pool)}
        return self.backbone.arrays(), self._close_training(work.loss if work.steps else None)

    def save(self) -> None:
        """Write the backbone, with its averaged weights, as a diffusers folder."""
        self.backbone.save(self.folder / "server" / "backbone")

    def _build(self, hello: Hello) -> None:
        self.backbone = Backbone(self.process, hello.channels, hello.size, hello.num_classes, hello.num_attributes)
        row = (hello.channels, hello.size, hello.size)
        device = self.process.runtime.device
        dtype = self.config.split.upload_dtype
        self.pool = Pool(self.folder / "server" / "pool", row, dtype, device, hello.num_attributes)

    def _restore(self, tensors: dict[str, Tensor], pool: str) -> None:
        self.backbone.state.load(tensors)
        self.pool.restore(pool)

    def _checkpoint(self) -> tuple[dict[str, Tensor], str]:
        return self.backbone.state.tensors(), self.pool.describe()

    def _arrays(self) -> ArrayRecord:
        return self.backbone.arrays()

    def _begin_with(self, arrays: ArrayRecord) -> None:
        self.backbone.begin_with(arrays)

    def _server_flops(self, hello: Hello) -> int:
        return self.backbone.hand_over_flops(hello.cut_step) if hello.cut_step < hello.timesteps else 0

    def _train_content(self, client: int, round_: int, arrays: ArrayRecord) -> RecordDict:
        """A request to train; for the upload if the pool lacks it; the backbone goes to those who start from it."""
        hello = self.members.hellos[client]
        uploads = hello.cut_step < hello.timesteps
        begins = takes_backbone(self.config, hello.cut_step) and client not in self.journal.initialised
        sends = begins and round_ >= init_round(self.config, self.config.run.num_rounds)
        return pack_train_request(
            TrainRequest(
                round=round_,
                num_rounds=self.config.run.num_rounds,
                want_upload=uploads and (client not in self.pool or self.config.split.upload != "once"),
                backbone=arrays if sends else None,
            )
        )

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

    def _train_backbone(self, round_: int, steps: int) -> ServerWork:
        return self.backbone.train(self.pool, round_, self.config.run.num_rounds, steps, self.progress)

    def _contract(self, hello: Hello) -> UploadContract:
        split = self.config.split
        return UploadContract(
            rows=hello.num_images * split.copies_per_image,
            channels=hello.channels,
            size=hello.size,
            num_classes=hello.num_classes,
            labels=self.config.shares_labels(),
            dtype=split.upload_dtype,
            alpha_bar=float(self.process.schedule.alpha_bar[hello.cut_step]),
            num_attributes=hello.num_attributes,
        )

    def _steps(self) -> int:
        """The backbone's steps of this round: every pooled client's share of updates above its cut, whole batches."""
        if not len(self.pool):
            return 0
        for client in self.pool.shares:
            hello = self.members.hellos[client]
            share = 1 - hello.cut_step / hello.timesteps
            updates = updates_per_round(self.config, hello.num_images, share)
            self.journal.credit += self.config.train.server_effort * updates
        steps = int(self.journal.credit // self.config.train.batch_size)
        self.journal.credit -= steps * self.config.train.batch_size
        return steps

    def _evaluate_content(self, client: int, round_: int, count: int, arrays: ArrayRecord) -> tuple[RecordDict, Tensor]:
        """The server's half of generation: samples at the client's cut."""
        name = (self.config.run.seed, "hand over", client, round_)
        labels = self._labels_for(client, count, name)
        x_k = self.backbone.hand_over(arrays, self.members.hellos[client].cut_step, count, labels, name)
        return pack_hand_over(HandOver(round_, x_k, labels)), x_k

    def _labels_for(self, client: int, count: int, name: tuple[int | str, ...]) -> Tensor | None:
        """Labels for a client's samples, as often as among those that it shared; None where none were."""
        if not self.backbone.conditional or not len(self.pool):
            return None
        holders = [client] if client in self.pool else sorted(self.pool.shares)
        known = [labels for holder in holders if (labels := self.pool.labels_of(holder)) is not None]
        pooled = torch.cat(known)
        return pooled[torch.randint(0, len(pooled), (count,), generator=stream(*name, "labels"))]
