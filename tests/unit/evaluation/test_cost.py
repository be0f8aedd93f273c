from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from collafuse_flwr.evaluation.cost import backward_flops, forward_flops, sampling_flops, training_flops


def test_linear() -> None:
    assert forward_flops(nn.Linear(3, 5), torch.zeros(7, 3)) == 2 * 7 * 3 * 5


def test_convolution() -> None:
    net = nn.Conv2d(3, 16, kernel_size=3, padding=1, stride=2)
    assert forward_flops(net, torch.zeros(2, 3, 8, 8)) == 2 * (2 * 4 * 4 * 16) * (3 * 3 * 3)


def test_attention() -> None:
    query = torch.zeros(2, 4, 64, 16)
    assert forward_flops(F.scaled_dot_product_attention, query, query, query) == 2 * (2 * 4) * (2 * 64 * 64 * 16)


def test_backward_costs_twice_the_forward() -> None:
    assert training_flops(10, images=7) == 210


@pytest.mark.parametrize(
    ("trained", "products"),
    # Of the first layer no gradient of its input is wanted. Below what is trained nothing is.
    [((0, 1, 2), 5), ((2,), 1), ((1,), 2), ((0,), 3), ((0, 2), 4)],
)
def test_of_parts_that_are_frozen_only_the_values_gradients_count(trained: tuple[int, ...], products: int) -> None:
    net = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)))
    for place, layer in enumerate(net):
        layer.requires_grad_(place in trained)
    one, x = forward_flops(net[0], torch.zeros(1, 4, 8, 8)), torch.zeros(1, 4, 8, 8)
    parameters = [own for own in net.parameters() if own.requires_grad]
    assert backward_flops(net, parameters, x) == products * one
    assert all(own.grad is None for own in net.parameters())


def test_sampling_is_one_forward_for_each_step_and_image() -> None:
    assert sampling_flops(10, steps=50, images=7) == 3500
