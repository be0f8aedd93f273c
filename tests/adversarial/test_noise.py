"""An operator who collects many releases of one image, and who reads the last bits."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from collafuse_flwr.diffusion.schedule import make_schedule
from collafuse_flwr.privacy.release import UploadDtype, encode, release
from tests.adversarial.node import OPEN, Node, some_images

CUT_RATIO = 0.57


def errors(node: Node, settings: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """What is added to the images in uploads under such settings, and the variance that it should have."""
    added, variances = [], []
    for run, own in enumerate(settings, 1):
        upload = node.upload(run=run, **own)
        assert upload is not None
        steps = own.get("diffusion__timesteps", 100)
        schedule = make_schedule(own.get("diffusion__schedule", "linear"), steps)
        alpha_bar = float(schedule.alpha_bar[round(own.get("cut_ratio", CUT_RATIO) * steps)])
        added.append((node.in_order(upload) / math.sqrt(alpha_bar) - node.x_0()).flatten())
        variances.append((1 - alpha_bar) / alpha_bar)
    return torch.stack(added).double(), torch.tensor(variances).double()


def best_combination(added: Tensor) -> float:
    """The least variance of a weighted mean: of an attacker who even knows the covariance of the noise."""
    covariance = added @ added.T / added.shape[1] + 1e-9 * torch.eye(len(added)).double()
    weights = torch.linalg.solve(covariance, torch.ones(len(added)).double())
    return float((weights / weights.sum() @ added).square().mean())


@pytest.mark.parametrize(
    "settings",
    [
        [{"diffusion__timesteps": steps, "cut_ratio": CUT_RATIO} for steps in range(100, 140)],
        [{"cut_ratio": cut / 100} for cut in range(40, 80)],
        [
            {"diffusion__schedule": name, "cut_ratio": cut / 100}
            for name in ("linear", "cosine", "sigmoid")
            for cut in range(50, 64)
        ],
    ],
    ids=["other T", "other cuts", "other schedules"],
)
def test_many_releases_tell_what_the_least_noisy_tells(tmp_path: Path, settings: list[dict[str, Any]]) -> None:
    """With noise of its own in every setting, 40 releases at -14.6 dB have a mean of +1.6 dB."""
    added, variances = errors(Node(tmp_path, OPEN, images=some_images(40)), settings)
    assert added.square().mean(dim=1).tolist() == pytest.approx(variances.tolist(), rel=0.15)
    # Forty weights that are fitted to 2,048 values find a fiftieth that is not there.
    assert best_combination(added) > 0.93 * float(added.square().mean(dim=1).min())


def test_equal_images_have_noise_of_their_own(tmp_path: Path) -> None:
    """Or who plants a copy of an image sees by two equal rows that the image is there."""
    images = some_images()
    images[:] = images[0]
    upload = Node(tmp_path, OPEN, images=images).upload(upload__dtype="int8", cut_ratio=CUT_RATIO)
    assert upload is not None
    assert len({row.numpy().tobytes() for row in upload}) == len(upload)
    correlations = torch.corrcoef(upload.flatten(1)) - torch.eye(len(upload))
    assert correlations.abs().max() < 0.75


def test_two_clip_norms_do_not_cancel_the_noise(tmp_path: Path) -> None:
    """On one path x_0 would be in the difference of two uploads, without noise: another norm is another path."""
    node = Node(tmp_path, OPEN)
    uploads = [node.upload(run=i, upload__clip_norm=norm, cut_ratio=CUT_RATIO) for i, norm in enumerate((4.3, 2.0))]
    first, second = (node.in_order(upload) for upload in uploads if upload is not None)
    x_0 = node.x_0().flatten(1)
    rebuilt = torch.nn.functional.cosine_similarity((first - second).flatten(1), x_0).abs()
    assert rebuilt.max() < 0.6
    assert torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].abs() < 0.2


def test_rows_do_not_leave_in_the_order_of_the_files(tmp_path: Path) -> None:
    """At a cut that hides nothing, each row is the image it came from, and neighbours are not neighbours."""
    node = Node(tmp_path, OPEN, images=some_images(40))
    upload = node.upload(cut_ratio=0.02)
    assert upload is not None
    nearest = torch.cdist(upload.flatten(1), node.x_0().flatten(1)).argmin(dim=1)
    assert sorted(nearest.tolist()) == list(range(len(upload)))
    assert (nearest == torch.arange(len(upload))).sum() < 6
    assert (nearest.diff() == 1).sum() < 6


@pytest.mark.parametrize("cut", [1, 20, 57, 80, 99])
def test_releases_leave_on_a_grid(tmp_path: Path, cut: int) -> None:
    """The same one at every cut, whatever the image: a float's own is finer where a value happens to be small."""
    upload = Node(tmp_path, OPEN).upload(cut_ratio=cut / 100)
    assert upload is not None
    assert torch.equal(upload, torch.round(upload * 4096) / 4096)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_the_last_bits_do_not_tell_two_images_apart(dtype: UploadDtype) -> None:
    """At epsilon 0.5 no test is right more often than 53 %; the low bits of a float32 sum alone were at 87 %."""
    alpha_bar = float(make_schedule("linear", 100).alpha_bar[80])
    grey, ulp = 4.3 / 8, np.spacing(np.float32(alpha_bar**0.5 * 4.3 / 8))
    shares = []
    for x_0 in (torch.full((1, 1, 8, 8), -grey), torch.full((1, 1, 8, 8), 128 / 127.5 - 1)):
        rows = [release(alpha_bar, x_0, [b"key"], os.urandom(16), range(1)) for _ in range(600)]
        codes = [encode(row, dtype, None) for row in rows]
        y = np.stack([np.float32(own.x_k.astype(np.float64) * own.scale).ravel() for own in codes])
        small = np.abs(y) < alpha_bar**0.5 * grey / 4
        coarse = small & (np.mod(y.astype(np.float64), float(ulp)) == 0)
        shares.append(coarse.sum(1) / np.maximum(small.sum(1), 1))
    thresholds = np.unique(np.concatenate(shares))
    right = max(abs((shares[0] >= t).mean() - (shares[1] >= t).mean()) for t in thresholds) / 2 + 0.5
    assert right < 0.56
