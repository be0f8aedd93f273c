"""The server side of CollaFuse as a Flower strategy: pool noised uploads, train the backbone, hand samples over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, ClassVar

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import Grid
from torch import Tensor

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.diffusion.loss import loss_scale
from collafuse_flwr.runs.history import Checkpoint
from collafuse_flwr.runs.upload_buffer import UploadBuffer
from collafuse_flwr.setup.training_budget import client_start_round, starts_from_backbone, updates_per_round
from collafuse_flwr.wire.collafuse import SampleHandoff, TrainReply, TrainRequest
from collafuse_flwr.wire.common import ClientInfo
from collafuse_flwr.wire.validation import UploadSpec, check_upload
from strategies.deconvolution import Deconvolution, Denoising
from strategies.diffusion_base import DiffusionStrategy
from strategies.fairness import cap_weights
from strategies.held_out_uploads import held_out_counts
from strategies.public_images import Joined, Rows, public_source
from strategies.server_model import Backbone, SampleOrder, ServerWork, weights


class CollaFuse(DiffusionStrategy):
    """CollaFuse (arXiv 2406.14429) with exact training of the backbone from x_k alone.

    The global arrays are the backbone's averaged weights. At c = 0 it is centralized training, at c = 1 local training,
    and with clipped images PFDM (arXiv 2504.00952).
    """

    train_reply: ClassVar[type[TrainReply]] = TrainReply
    backbone: Backbone
    pool: UploadBuffer

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the uploads, pool them, and train the backbone on the pool for this round's share of the updates."""
        row = self.history.rounds[-1]
        self._gather_training(replies)
        with self._threads():
            denoising = self._denoise(row.round)
            work = denoising.with_training(self._train_backbone(row.round, self._steps()))
        row.server = asdict(work) | {"pool": len(self.pool)}
        if self.backbone.best is not None:
            row.server["held_out_loss"] = self.backbone.best_loss
        return self.backbone.arrays(), self._close_training(work.loss if work.steps else None)

    def _denoise(self, round_: int) -> Denoising:
        return self.deconvolution.denoise(self.backbone, round_, self.progress) if self.deconvolution else Denoising()

    def _has_contributions(self) -> bool:
        return bool(self.history.rounds[-1].clients or len(self.pool))

    def save(self) -> None:
        """Write the backbone, with its averaged weights, as a diffusers folder."""
        self.backbone.save(self.layout.backbone)

    def _build(self, client_info: ClientInfo) -> None:
        self.backbone = Backbone(self.config, self.setup, *client_info.shape)
        #: What clients start from who do not wait for the backbone; None where they start from scratch.
        self.public_start = self._client_start(client_info)
        self.public = public_source(self.config, self.layout, client_info.shape, self.runtime.device)
        row = (client_info.channels, client_info.size, client_info.size)
        dtype, attributes = self.config.upload.dtype, client_info.num_attributes
        self.pool = UploadBuffer(self.layout.pool, row, dtype, self.runtime.device, attributes)
        deconvolves = self.config.deconvolution.iterations > 0
        self.deconvolution = Deconvolution(self.config, self.layout, self.pool, attributes) if deconvolves else None
        self.initialised: set[int] = set()
        #: Labels and samples at their cuts of clients that are not sent theirs yet.
        self.sampled: dict[int, tuple[Tensor | None, Tensor]] = {}
        self.deferred_updates = 0.0

    def _client_start(self, client_info: ClientInfo) -> ArrayRecord | None:
        if not self.config.diffusion.start_from or self.history.rounds:
            # A run that goes on has it in its checkpoint.
            return None
        self.backbone.start_from(self._load_start(self.backbone.network))
        return ArrayRecord(self._load_start(self.setup.denoiser(0, *client_info.shape)))

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.backbone.state.load(checkpoint.tensors["backbone"])
        self.backbone.best = checkpoint.tensors.get("best backbone")
        self.backbone.best_loss = checkpoint.state.get("best_loss", math.inf)
        if start := checkpoint.tensors.get("start"):
            self.public_start = ArrayRecord({name: value.cpu() for name, value in start.items()})
        self.pool.restore(checkpoint.state["pool"])
        if self.pool.lost:
            lost = ", ".join(map(str, sorted(self.pool.lost)))
            self.progress.say(f"uploads of clients {lost} in {self.pool.folder} are damaged, or newer: wanted again")
        if self.deconvolution:
            self.deconvolution.images.restore(checkpoint.state["denoised"])
        self.initialised = set(checkpoint.state["initialised"])
        self.deferred_updates = checkpoint.state["deferred_updates"]

    def _checkpoint(self) -> Checkpoint:
        plain: dict[str, Any] = {"initialised": sorted(self.initialised), "deferred_updates": self.deferred_updates}
        start = {} if self.public_start is None else {"start": weights(self.public_start)}
        best = {} if self.backbone.best is None else {"best backbone": self.backbone.best}
        tensors = {"backbone": self.backbone.state.state_dict()} | best | start
        plain |= {} if self.backbone.best is None else {"best_loss": self.backbone.best_loss}
        plain |= {"denoised": self.deconvolution.images.state()} if self.deconvolution else {}
        return Checkpoint(tensors, {"pool": self.pool.state()} | plain)

    def _arrays(self) -> ArrayRecord:
        return self.backbone.arrays()

    def _load_initial(self, arrays: ArrayRecord) -> None:
        self.backbone.load_initial(arrays)

    def _server_flops(self, client_info: ClientInfo) -> int:
        return (
            self.backbone.sample_to_cut_flops(client_info.cut_step)
            if client_info.cut_step < client_info.timesteps
            else 0
        )

    def _train_request(self, client: int, round_: int) -> TrainRequest:
        """A request to train; for the upload if the pool lacks it; with the weights that a client starts from."""
        client_info = self.client_manager.client_infos[client]
        uploads = client_info.cut_step < client_info.timesteps
        sends = client not in self.initialised and self._initialises(client_info, round_)
        held = self.pool.shares.get(client) if self.config.recuts() else None
        return TrainRequest(
            round=round_,
            num_rounds=self.config.run.num_rounds,
            want_upload=uploads and (client not in self.pool or self.config.upload.noise != "fixed"),
            backbone=self._begins_with(client_info) if sends else None,
            held_cut=held.cut if held else None,
        )

    def _initialises(self, client_info: ClientInfo, round_: int) -> bool:
        """Whether a client that has not begun yet begins in this round with what it is sent."""
        if not starts_from_backbone(self.config, client_info.cut_step):
            return self.public_start is not None and client_info.cut_step > 0
        return round_ >= client_start_round(self.config, self.config.run.num_rounds)

    def _begins_with(self, client_info: ClientInfo) -> ArrayRecord | None:
        """The weights that a client's denoiser starts from: the backbone's as they are now, or the public ones."""
        return self.arrays if starts_from_backbone(self.config, client_info.cut_step) else self.public_start

    def _accept_training(self, client: int, reply: TrainReply) -> None:
        row = self.history.rounds[-1]
        if reply.upload is not None:
            # Whatever is wrong with it, it has left the client.
            row.uploads.append(str(client))
        client_info = self._recut(client, reply)
        if reply.upload is not None:
            check_upload(reply.upload, self._contract(client_info))
            self.pool.add(client, client_info.cut_step, reply.upload)
        self.client_manager.client_infos[client] = client_info
        row.cuts[str(client)] = client_info.cut_step
        row.clients[str(client)] = asdict(reply.metrics)
        if self._initialises(client_info, row.round):
            self.initialised.add(client)

    def _recut(self, client: int, reply: TrainReply) -> ClientInfo:
        """A client with the cut that its reply reports.

        The pool keeps the least noisy samples that came of a client, each with its own start step: on one path of noise
        they tell all that noisier ones tell, and the backbone trains from them above any larger cut as well. Both would
        count the client's images twice. So only a move to a smaller cut comes with an upload.

        Raises:
            UploadError: it is no cut that the client may have, or it does not upload what a smaller cut needs.
        """
        client_info = self.client_manager.client_infos[client]
        if not self.config.recuts():
            if reply.recut is not None:
                raise UploadError(f"`recut` must not be sent when `cut.policy` is {self.config.cut.policy}")
            return client_info
        cuts = self.config.cuts_of(client)
        if reply.recut is None or reply.recut.cut not in cuts:
            cut = None if reply.recut is None else reply.recut.cut
            raise UploadError(f"`recut.cut` = {cut} must be one of {', '.join(map(str, cuts))}")
        cut, held = reply.recut.cut, self.pool.shares.get(client)
        if reply.upload is not None and held is not None and cut >= held.cut:
            raise UploadError(f"`upload` at cut step {cut} is no less noisy than what came at {held.cut}")
        if reply.upload is None and held is not None and cut < held.cut:
            raise UploadError(f"`recut.cut` = {cut} needs an upload: the last one was at {held.cut}")
        return replace(client_info, cut_step=cut)

    def _train_backbone(self, round_: int, steps: int) -> ServerWork:
        sizes = self.pool.sizes()
        out = held_out_counts(sizes, self.config.server.holdout_fraction, self.config.run.seed)
        uploads = self.pool.limited(self._sizes(sizes), out)
        source: Rows = uploads if self.public is None else Joined((uploads, self.public))
        lasts = None
        if self.deconvolution and self.deconvolution.images.sizes():
            source, lasts = self.deconvolution.source(uploads, self.public, self._sizes(sizes))
        scale = loss_scale(self.setup.schedule, self.setup.objective, source.cuts)
        if self.config.upload.noise == "official":
            # The authors take uploads for images.
            scale = 1.0
        rounds = self.config.run.num_rounds
        # Nobody is most of what the backbone is measured on, either.
        measured = self._sizes({client: rows for client, rows in out.items() if rows})
        held_out = self.pool.last({client: int(rows) for client, rows in measured.items()}) if measured else None
        return self.backbone.train(
            source, round_, rounds, steps, self.progress, lasts=lasts, loss_scale=scale, held_out=held_out
        )

    def _sizes(self, sizes: dict[int, int]) -> dict[int, float]:
        """Images of each client, of which none has more than its largest share."""
        return cap_weights(sizes, self.config.federation.max_client_weight)

    def _contract(self, client_info: ClientInfo) -> UploadSpec:
        upload = self.config.upload
        return UploadSpec(
            rows=client_info.num_images * upload.draws_per_image,
            channels=client_info.channels,
            size=client_info.size,
            num_classes=client_info.num_classes,
            labels=self.config.shares_labels(),
            dtype=upload.dtype,
            alpha_bar=float(self.setup.schedule.alpha_bar[client_info.cut_step]),
            num_attributes=client_info.num_attributes,
        )

    def _steps(self) -> int:
        """The backbone's steps of this round, whole batches: every pooled client's share of updates above its cut.

        Public images have a full DDPM's, and so have uploads that were denoised.
        """
        work: list[tuple[float, float]] = [] if self.public is None else [(len(self.public), 1.0)]
        sizes = self._sizes({c: self.client_manager.client_infos[c].num_images for c in self.pool.sizes()})
        for client, num_images in sizes.items():
            # A client that has moved to a larger cut since is still trained on from where its samples are.
            below = self.pool.shares[client].cut / self.config.diffusion.timesteps
            denoised = self.deconvolution is not None and client in self.deconvolution.images
            work.append((num_images, 1 - below * (not denoised)))
        if not work:
            return 0
        for num_images, share in work:
            updates = updates_per_round(self.config, num_images, share)
            self.deferred_updates += self.config.server.update_multiplier * updates
        steps = int(self.deferred_updates // self.config.server.batch_size)
        self.deferred_updates -= steps * self.config.server.batch_size
        return steps

    def _before_evaluation(self, grid: Grid, round_: int) -> None:
        """Leave out who has not begun: it would make its samples from scratch, not from the public start."""
        if self.public_start is not None:
            cuts = self.client_manager.client_infos
            self.selected = [own for own in self.selected if own in self.initialised or not cuts[own].cut_step]
        self._sample_to_cuts(round_, self._sample_counts())

    def _evaluate_request(self, client: int, round_: int, count: int) -> tuple[SampleHandoff, Tensor]:
        """The server's half of generation: samples at the client's cut."""
        cut, (labels, x_k) = self.client_manager.client_infos[client].cut_step, self.sampled.pop(client)
        named = cut if self.config.recuts() else None
        backbone = self.arrays if self.setup.chooses_handover(cut) else None
        return SampleHandoff(round=round_, x_k=x_k, labels=labels, cut_step=named, backbone=backbone), x_k

    def _sample_to_cuts(self, round_: int, counts: Mapping[int, int]) -> None:
        """Sample down to the cuts of some clients, those of one cut together, for requests to take up."""
        self.sampled = {}
        orders: dict[int, dict[int, SampleOrder]] = {}
        for client, count in counts.items():
            name = (self.config.run.seed, "hand over", client, round_)
            order = SampleOrder(count, self._labels_for(client, count, name), name)
            orders.setdefault(self.client_manager.client_infos[client].cut_step, {})[client] = order
        for cut, own in orders.items():
            for group in self._groups(own):
                self.progress.step("sampling", len(self.sampled), len(counts))
                states = self.backbone.handoffs(self.arrays, cut, list(group.values()))
                labels = (order.labels for order in group.values())
                self.sampled.update(zip(group, zip(labels, states, strict=True), strict=True))

    def _groups(self, orders: Mapping[int, SampleOrder]) -> Iterator[dict[int, SampleOrder]]:
        """Orders in groups that fill a call of the network."""
        group: dict[int, SampleOrder] = {}
        for client, order in orders.items():
            group[client] = order
            if sum(own.count for own in group.values()) >= self.setup.call_rows(self.backbone.shape[-1]):
                yield group
                group = {}
        if group:
            yield group

    def _labels_for(self, client: int, count: int, name: tuple[int | str, ...]) -> Tensor | None:
        """Labels for a client's samples, as often as among those that it shared; None where none were."""
        if not self.backbone.conditional:
            return None
        return self.pool.draw_labels(client, count, named_generator(*name, "labels"))
