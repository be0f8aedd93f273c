"""Where a network takes over: losses in closed form, and the least sum of them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from collafuse_flwr.diffusion.handover import best_handover, handover_edges, stretch_losses
from collafuse_flwr.diffusion.loss import Objective
from collafuse_flwr.diffusion.schedule import cosine

SCHEDULE = cosine(50)
EPSILON = Objective("epsilon")


@pytest.mark.parametrize(("timesteps", "cut"), [(100, 70), (100, 33), (1000, 1), (7, 3), (2, 1)])
def test_edges_rise_from_the_image_to_noise_and_the_cut_is_one(timesteps: int, cut: int) -> None:
    edges = handover_edges(timesteps, cut)
    assert (edges[0], edges[-1]) == (0, timesteps)
    assert edges == sorted(set(edges))
    assert cut in edges


def ideal(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """E[noise | x_t] = sqrt(1 - alpha_bar_t) x_t where images are standard normal."""
    return (1 - SCHEDULE.at(t)).sqrt() * x_t


def nothing(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    return torch.zeros_like(x_t)


def losses(denoise: object, edges: list[int], seed: int = 0, images: int = 4000) -> list[float]:
    x = torch.randn((images, 1, 4, 4), generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(seed)
    return stretch_losses(SCHEDULE, EPSILON, denoise, x, None, edges, generator)  # type: ignore[arg-type]


def test_losses_are_those_of_gaussian_images() -> None:
    """The ideal denoiser's error at t is alpha_bar_t, that of zero is 1: summed over the steps of a stretch."""
    edges = handover_edges(50, 33)
    alpha_bar = SCHEDULE.alpha_bar.tolist()
    wanted = [sum(alpha_bar[t] for t in range(low + 1, high + 1)) for low, high in itertools.pairwise(edges)]
    assert losses(ideal, edges) == pytest.approx(wanted, rel=0.03, abs=0.02)
    lengths = [high - low for low, high in itertools.pairwise(edges)]
    assert losses(nothing, edges) == pytest.approx(lengths, rel=0.03)


def test_two_networks_are_measured_at_the_same_steps_and_noise() -> None:
    edges = [0, 20, 50]
    assert losses(ideal, edges, images=20) == losses(ideal, edges, images=20)
    assert losses(ideal, edges, images=20) != losses(ideal, edges, seed=1, images=20)


def test_a_network_that_is_no_number_loses_everywhere() -> None:
    def broken(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        return torch.where(t.view(-1, 1, 1, 1) > 20, math.nan, x_t)

    assert losses(broken, [0, 20, 50], images=20)[1] == math.inf
    assert best_handover([0, 20, 50], losses(broken, [0, 20, 50]), losses(nothing, [0, 20, 50])) == 50


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8))
def test_the_least_sum_is_that_of_all_tried_one_by_one(pairs: list[tuple[int, int]]) -> None:
    above, below = ([float(pair[i]) for pair in pairs] for i in (0, 1))
    edges = list(range(0, 10 * len(pairs) + 1, 10))
    sums = {edge: sum(below[:i]) + sum(above[i:]) for i, edge in enumerate(edges)}
    chosen = best_handover(edges, above, below)
    assert sums[chosen] == min(sums.values())
    assert chosen == min(edge for edge, total in sums.items() if total == min(sums.values()))
