"""What the server learns below the cuts from uploads alone: it denoises them, and trains on what comes (SFBD)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.privacy.release import encode
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.runs.upload_buffer import LimitedRows, Share, UploadBuffer
from collafuse_flwr.setup.training_budget import deconvolution_rounds
from strategies.public_images import Joined, PublicImages
from strategies.server_model import Backbone, ServerWork

#: Rows that are denoised together.
BATCH = 256
#: In how many parts a chain is divided between its steps above and below a cut.
PARTS = 10


@dataclass(frozen=True)
class BelowCuts:
    """Denoised uploads, held with the cuts that they came at, as images at step 0."""

    rows: UploadBuffer | LimitedRows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def cuts(self) -> Tensor:
        """The step that each row begins at."""
        return torch.zeros_like(self.rows.cuts)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows as (x_0, start = 0, labels or None)."""
        x_0, cuts, labels = self.rows.batch(rows)
        return x_0, torch.zeros_like(cuts), labels


@dataclass(frozen=True)
class Repeated:
    """Rows of several sources, each as often as it is named, and in the order in which batches name them."""

    joined: Joined
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def cuts(self) -> Tensor:
        """The step that each row begins at."""
        return self.joined.cuts[self.rows]

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows as (x, start step, labels or None)."""
        named = self.rows.to(rows.device)[rows]
        x, start, labels = self.joined.batch(named)
        # Rows have last steps of their own, by which they are not sorted.
        back = torch.cat(self.joined.places(named)).argsort()
        return x[back], start[back], None if labels is None else labels[back]


@dataclass(frozen=True)
class Denoising:
    """What denoising has taken of the server."""

    flops: int = 0
    seconds: float = 0.0

    def with_training(self, work: ServerWork) -> ServerWork:
        """Both together."""
        return replace(work, flops=work.flops + self.flops, seconds=work.seconds + self.seconds)


class Deconvolution:
    """Stochastic forward-backward deconvolution (SFBD, arXiv 2502.05446) of a pool of uploads.

    Steps above the cuts are learnt from the uploads, as ever. Those up to a cut have no data of their own: in some
    rounds each upload is denoised by the backbone, and until the next of these rounds the backbone trains on the images
    that came of it, for t <= k. It is the server's compute alone, on what has left the clients already; of uploads with
    a guarantee of differential privacy it is post-processing.

    Consistency (arXiv 2404.10177) is not another choice here: its loss takes two further runs of the reverse process
    for every image of every batch, where denoising takes one for every upload in some rounds.
    """

    def __init__(self, config: Config, layout: RunLayout, pool: UploadBuffer, num_attributes: int) -> None:
        """Denoise the uploads of `pool`, into a folder of their own."""
        self.config, self.pool, self.rounds = config, pool, deconvolution_rounds(config)
        channels, height, width = pool.row["x_k"].shape
        #: What came of the uploads, each with the cut of its own.
        self.images = UploadBuffer(layout.denoised, (channels, height, width), "float16", pool.device, num_attributes)

    def denoise(self, backbone: Backbone, round_: int, progress: Progress) -> Denoising:
        """Draw an image for every upload anew, if this is a round for it."""
        if round_ not in self.rounds:
            return Denoising()
        began, flops, done = time.perf_counter(), 0, 0
        shares = {client: self.pool.shares[client] for client in self.pool.sizes() if self.pool.shares[client].cut}
        steps = self.config.deconvolution.sampling_steps
        self.images.restore({})
        for cut, clients in _together(shares):
            own = [shares[client] for client in clients]
            places = torch.cat([torch.arange(share.begin, share.begin + share.rows) for share in own])
            drawn = []
            for part in places.split(BATCH):
                x_k, _, labels = self.pool.batch(part)
                name = (self.config.run.seed, "deconvolution", round_, done)
                drawn.append(backbone.draw_images(x_k, cut, labels, name, steps))
                done += len(part)
                progress.step("denoising", done, sum(share.rows for share in shares.values()))
            for client, x_0 in zip(clients, torch.cat(drawn).split([share.rows for share in own]), strict=True):
                self.images.add(client, cut, encode(x_0, "float16", self.pool.labels_of(client)))
            flops += backbone.draw_flops(cut, steps) * len(places)
        return Denoising(flops, time.perf_counter() - began)

    def source(
        self, uploads: UploadBuffer | LimitedRows, public: PublicImages | None, most: Mapping[int, float]
    ) -> tuple[Repeated, Tensor]:
        """What the backbone trains on, and the last step of each of its rows.

        Rows appear so often that each step is trained as in a DDPM: of a tenth of the chain, an upload at k has its
        share above k, its image that up to k, and a public image both.

        Args:
            uploads: as they came.
            public: clean images, if there are any.
            most: how many rows of each client are trained on at most.
        """
        last = self.config.diffusion.timesteps
        below = BelowCuts(self.images.limited(most))
        above_cut, below_cut = last - uploads.cuts, below.rows.cuts
        both = torch.full((0 if public is None else len(public),), last)
        shares = PARTS * torch.cat([above_cut, below_cut, both]) / last
        rows = torch.repeat_interleave(shares.round().long().clamp(min=1))
        lasts = torch.cat([torch.full_like(above_cut, last), below_cut, both])
        joined = Joined((uploads, below) if public is None else (uploads, below, public))
        return Repeated(joined, rows), lasts[rows].to(self.pool.device)


def _together(shares: Mapping[int, Share]) -> Iterator[tuple[int, list[int]]]:
    """Clients of one cut, with it: as many as fill a batch."""
    for cut, same in groupby(sorted(shares, key=lambda own: (shares[own].cut, own)), key=lambda own: shares[own].cut):
        clients: list[int] = []
        rows = 0
        for client in same:
            clients.append(client)
            rows += shares[client].rows
            if rows >= BATCH:
                yield cut, clients
                clients, rows = [], 0
        if clients:
            yield cut, clients
