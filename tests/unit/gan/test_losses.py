"""What generator and discriminator descend, in numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.runtime import choose_runtime
from collafuse_flwr.gan.split_gan.ops import OptimConfig

BCE = OptimConfig(choose_runtime("cpu", "float32"))
HINGE = replace(BCE, loss_kind="hinge")


def logits(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


@pytest.mark.parametrize(
    ("target", "fool", "expected"),
    [
        # Rows -2, 0.5 and 3: a real one costs 3, 0.5 and 0, a fake one 0, 1.5 and 4, the generator the negative mean.
        (1.0, False, 3.5 / 3),
        (0.0, False, 5.5 / 3),
        (1.0, True, -0.5),
    ],
)
def test_hinges(target: float, fool: bool, expected: float) -> None:
    rows = logits(-2, 0.5, 3)
    assert HINGE.loss(rows, target, fool=fool).item() == pytest.approx(expected)
    assert HINGE.reported([rows], target, fool=fool) == pytest.approx(expected)
    assert HINGE.reported([rows, rows], target, target, fool=fool) == pytest.approx(2 * expected)


def test_a_discriminator_that_is_sure_enough_is_not_trained_on_and_a_generator_always_is() -> None:
    for target, fool, slope in ((1.0, False, 0.0), (1.0, True, -0.5)):
        rows = logits(1.5, 4).requires_grad_()
        HINGE.loss(rows, target, fool=fool).backward()
        assert rows.grad is not None
        assert rows.grad.flatten().tolist() == [slope, slope]


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_cross_entropies_are_the_same_for_both(target: float) -> None:
    rows = logits(-2, 0.5)
    expected = sum(math.log1p(math.exp(-x if target else x)) for x in (-2, 0.5)) / 2
    for fool in (False, True):
        assert BCE.loss(rows, target, fool=fool).item() == pytest.approx(expected)
