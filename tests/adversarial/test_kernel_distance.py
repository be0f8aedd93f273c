"""An operator who hands over samples of its choice, and rebuilds held-out images from the kernel distances to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from collafuse_flwr.client.policy import Policy
from collafuse_flwr.evaluation.distances import kernel_distance
from collafuse_flwr.evaluation.features import PixelFeatures
from collafuse_flwr.wire.collafuse import SampleHandoff
from collafuse_flwr.wire.common import EvaluateReply
from tests.adversarial.node import Node, some_images

IMAGES, PIXELS = 4, 64
#: Samples are clipped to [-1, 1]: sums of three directions stay within.
LONGEST = 1 / 3


class Oracle:
    """The kernel distance of copies of one sample to the held-out images, and the number of queries."""

    def __init__(self, held_out: Tensor, leaves: Callable[[float], float]) -> None:
        """`leaves` is what is done with a number before it leaves."""
        self._held_out, self._leaves, self.queries = held_out.view(-1, 1, 8, 8).float(), leaves, 0
        self._constant = self(torch.zeros(PIXELS).double()) + 1

    def __call__(self, y: Tensor) -> float:
        self.queries += 1
        copies = y.float().clamp(-1, 1).view(1, 1, 8, 8).expand_as(self._held_out)
        return self._leaves(kernel_distance(self._held_out, copies, PixelFeatures()).mean)

    def similarity(self, y: Tensor) -> float:
        """The mean over the held-out x of (x y / d + 1)^3: what the distance holds of them, with k(y, y) known."""
        return (self._constant + (float(y @ y) / PIXELS + 1) ** 3 - self(y)) / 2

    def second_moment(self, y: Tensor) -> float:
        """The mean of (x y)^2, from the part of the similarity that is even in y."""
        return ((self.similarity(y) + self.similarity(-y)) / 2 - 1) / 3 * PIXELS**2

    def odd(self, y: Tensor) -> float:
        """3 mean(x y) / d + mean((x y)^3) / d^3."""
        return (self.similarity(y) - self.similarity(-y)) / 2


def rebuilt(oracle: Oracle) -> Tensor:
    """Up to sign, the images (n, d): directions that are dual to them whiten second moments and split third ones."""
    directions = torch.linalg.qr(torch.randn(PIXELS, IMAGES + 1, dtype=torch.float64)).Q.T
    directions *= LONGEST / directions.abs().amax(1, keepdim=True)
    other = torch.randn(PIXELS, dtype=torch.float64)
    other *= LONGEST / other.abs().max()
    unit = torch.eye(PIXELS, dtype=torch.float64)
    # Terms of first and third order part where y is halved.
    first = torch.tensor([(8 * oracle.odd(e / 2) - oracle.odd(e)) / 9 * PIXELS for e in unit]).double()

    def third_moment(y: Tensor) -> float:
        return (oracle.odd(y) - 3 * float(first @ y) / PIXELS) * PIXELS**3

    second, third = torch.zeros(2, len(directions), len(directions), dtype=torch.float64)
    for i, u in enumerate(directions):
        for j, v in enumerate(directions[: i + 1]):
            pair = oracle.second_moment(u + v) - oracle.second_moment(u - v)
            triple = third_moment(u + v + other) - third_moment(u + v - other)
            triple += third_moment(u - v - other) - third_moment(u - v + other)
            second[i, j] = second[j, i] = pair / 4
            third[i, j] = third[j, i] = triple / 24
    sizes, vectors = torch.linalg.eigh(second)
    white = vectors[:, -IMAGES:] / sizes[-IMAGES:].clamp(min=1e-12).sqrt()
    dual = (white @ torch.linalg.eigh(white.T @ third @ white).eigenvectors).T @ directions
    dual *= 0.45 / dual.abs().amax(1, keepdim=True)
    images = []
    for w in dual:
        crossed = [oracle.second_moment(w + 0.45 * e) - oracle.second_moment(w - 0.45 * e) for e in unit]
        scale = math.sqrt(max(oracle.second_moment(w), 1e-12) / IMAGES)
        images.append(torch.tensor(crossed).double() / (4 * 0.45 * IMAGES * scale))
    return torch.stack(images)


def closest(held_out: Tensor, images: Tensor) -> list[float]:
    """For each held-out image, the correlation (without sign) of the most alike that was found."""
    unit = [x / x.norm(dim=1, keepdim=True) for x in (held_out, images)]
    return [float(value) for value in (unit[0] @ unit[1].T).abs().amax(1)]


@pytest.fixture
def held_out() -> Tensor:
    images: Tensor = torch.from_numpy(load_digits().data[:IMAGES]) / 8 - 1
    return images


def test_the_search_rebuilds_images_from_distances_as_they_are(held_out: Tensor) -> None:
    torch.manual_seed(0)
    oracle = Oracle(held_out, lambda distance: distance)
    assert min(closest(held_out, rebuilt(oracle))) > 0.95
    # More than an owner lets out by default, across all runs.
    assert oracle.queries > Policy().max_reports


def test_distances_that_may_leave_rebuild_none(held_out: Tensor) -> None:
    """Of so few images an owner has to lower a limit first; the step of what it lets out is enough."""
    torch.manual_seed(0)
    policy = replace(Policy(), numbers=("kernel_distance",), min_number_images=IMAGES)

    def leaves(distance: float) -> float:
        reply = EvaluateReply(num_samples=IMAGES, kernel_distance=distance, seconds=None, flops_per_image=0, bits=None)
        said = policy.reported(reply, {"kernel_distance": IMAGES}, 0).kernel_distance
        assert said is not None
        return said

    correlations = closest(held_out, rebuilt(Oracle(held_out, leaves)))
    # Less alike than the mean of all four is.
    assert max(correlations) < min(closest(held_out, held_out.mean(0, keepdim=True)))


def test_no_distance_leaves_by_default_nor_after_the_last_report(tmp_path: Path) -> None:
    (tmp_path / "default").mkdir()
    silent = Node(tmp_path / "default")
    limits = 'numbers = ["kernel_distance"]\nmin_number_images = 4\nmax_reports = 2\n'
    spoken = Node(tmp_path, limits, some_images(40))

    def distance(node: Node, round_: int) -> float | None:
        settings: dict[str, Any] = {"cut_ratio": 0.5, "train__local_epochs": 1.0}
        node.train(round_, upload=False, **settings)
        request = SampleHandoff(round=round_, x_k=torch.zeros(8, 1, 8, 8))
        said: float | None = node.ask("evaluate", request, EvaluateReply, **settings).kernel_distance
        return said

    assert distance(silent, 1) is None
    assert [distance(spoken, round_) is None for round_ in (1, 2, 3)] == [False, False, True]
