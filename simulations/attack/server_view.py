"""What the server received of a client's images over a whole run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from collafuse_flwr.core.errors import UserError
from collafuse_flwr.data.images import normalize, subsample_evenly
from collafuse_flwr.privacy.release import (
    UploadDtype,
    decode,
    encode,
    image_keys,
    noise_draw_ids,
    release,
    upload_order,
)
from collafuse_flwr.runs.loaded_run import FinishedRun
from collafuse_flwr.setup.privacy import clip, clipped_to

#: Images of a client that are attacked.
MAX_TARGETS = 1000
#: Largest difference between a pool's float row and the same release made on another machine.
ROUNDING = 0.01


@dataclass(frozen=True, eq=False)
class ServerView:
    """Releases of some of a client's images x_0: `last` is one of each, `mean` that of all `releases` of each.

    `x_0` has shape (n, channels, size, size), clipped where the run clips, and so have the others; `labels` are what
    travelled beside them, or None. `images` are what rebuilt ones are held against: pixels, also where x_0 are latents.
    """

    x_0: Tensor
    images: Tensor
    last: Tensor
    mean: Tensor
    releases: int
    labels: Tensor | None


def clipped(run: FinishedRun, rows: Tensor) -> Tensor:
    """Images as they are before they are noised, in [-1, 1]."""
    return clip(run.config, normalize(run.data.images.images[rows]))


def judged(run: FinishedRun, rows: Tensor) -> Tensor:
    """Images as rebuilt ones are held against, in [-1, 1]: as they were noised, or those that were encoded before."""
    images = run.data.images
    return clipped(run, rows) if images.codec is None else normalize(images.pixels[rows])


def received(run: FinishedRun, client: int, rows: Tensor) -> ServerView | None:
    """All that came of the training images at `rows` of the data set, of which at most 1000 at even distances.

    The pool has the last upload, in an order of the client's own, which is undone here. With `upload.noise` = fixed
    there was no other; the earlier ones of a run with new noise in every round are made again from the client's secret,
    because a curious server would have kept them.

    Returns:
        None if nothing came.

    Raises:
        UserError: the pool does not hold the releases of the client's training images, in their order.
    """
    if run.pool is None or client not in run.pool:
        return None
    config, share = run.config, run.pool.shares[client]
    train = run.data.partitions[client].train
    rounds = [int(row.round) for row in run.rounds if str(client) in row.clients]
    rounds = rounds[-1:] if config.upload.noise == "fixed" else rounds[: _uploads(run)]
    again, rounding = _upload(run, client, share.cut, rounds[-1])
    # Rows left in an order that only the secret tells.
    order = upload_order(run.secret(client), noise_draw_ids(config.upload, rounds[-1]), len(train))
    fits = share.rows == len(order) == len(again)
    held, _, labels = run.pool.batch(share.begin + order.argsort() if fits else torch.arange(0))
    if not fits or held.shape != again.shape or (held - again).abs().max() > rounding:
        raise UserError(f"`run` = {str(run.folder)!r}: the pool does not hold the releases of client {client}'s images")
    places = torch.searchsorted(train, subsample_evenly(rows, MAX_TARGETS))
    copies = _by_copy(held, len(train))[:, places]
    total = copies.sum(dim=0)
    for round_ in rounds[:-1]:
        total += _by_copy(_upload(run, client, share.cut, round_)[0], len(train))[:, places].sum(dim=0)
    releases = len(rounds) * len(copies)
    shared_labels = None if labels is None else labels[places]
    x_0, images = (own(run, train[places]) for own in (clipped, judged))
    return ServerView(x_0, images, copies[0], total / releases, releases, shared_labels)


def _uploads(run: FinishedRun) -> int:
    """Uploads that a client makes before `upload.max_releases` keeps it from more."""
    upload = run.config.upload
    return (upload.max_releases or sys.maxsize) // upload.draws_per_image


def _by_copy(x_k: Tensor, images: int) -> Tensor:
    """An upload, all images of the first copy first, as (copies, images, channels, size, size)."""
    return x_k.view(-1, images, *x_k.shape[1:])


def _upload(run: FinishedRun, client: int, cut: int, round_: int) -> tuple[Tensor, float]:
    """A client's upload in a round made again, rounded as it travelled, and by how much it may differ."""
    settings = run.config.upload
    rows, secret = run.data.partitions[client].train, run.secret(client)
    x_0, keys = clipped(run, rows), image_keys(secret, run.data.images.images[rows])
    norm, draws = clipped_to(run.config, x_0[0].numel()), noise_draw_ids(settings, round_)
    x_k = release(float(run.setup.schedule.alpha_bar[cut]), x_0, keys, secret, draws, norm)
    upload = encode(x_k, cast(UploadDtype, settings.dtype), None)
    # On another machine a value in the middle between two int8 codes may be rounded to either.
    rounding = 1.5 * upload.scale if settings.dtype == "int8" else ROUNDING
    return decode(upload.x_k, upload.scale), rounding
