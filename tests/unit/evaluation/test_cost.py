from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from collafuse_flwr.evaluation.cost import forward_flops, sampling_flops, training_flops


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


def test_sampling_is_one_forward_for_each_step_and_image() -> None:
    assert sampling_flops(10, steps=50, images=7) == 3500
