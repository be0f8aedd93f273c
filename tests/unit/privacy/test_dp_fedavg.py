"""Updates of the weights: their bound, their noise, and what one of them is worth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from collafuse_flwr.core.rng import keyed_generator
from collafuse_flwr.privacy.accounting import Training, composed_epsilon, epsilon
from collafuse_flwr.privacy.dp_fedavg import clipped_update, moved, noised
from tests.accountants import GaussianDpEvent, NeighboringRelation, PLDAccountant

START = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([-1.0]), "count": torch.tensor(7)}


def norm(update: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(value.square().sum()) for value in update.values()))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32), min_size=7, max_size=7), st.sampled_from([1e-6, 0.5, 1e6]))
def test_no_weights_whatever_move_by_more_than_c(values: list[float], clip_norm: float) -> None:
    trained = {"a": torch.tensor(values[:6]).view(2, 3), "b": torch.tensor(values[6:]), "count": torch.tensor(8)}
    update = clipped_update(trained, START, clip_norm)
    assert norm(update) <= clip_norm * (1 + 1e-12)
    assert moved(START, update)["count"] == 7


def test_an_update_within_c_is_itself_and_a_longer_one_keeps_its_direction() -> None:
    trained = START | {"a": START["a"] + 3, "b": START["b"] - 4}
    length = math.sqrt(6 * 9 + 16)
    whole = moved(START, clipped_update(trained, START, length + 1e-6))
    assert all(torch.equal(value, trained[name]) for name, value in whole.items())
    half = clipped_update(trained, START, length / 2)
    torch.testing.assert_close(half["a"], torch.full((2, 3), 1.5, dtype=torch.float64))
    torch.testing.assert_close(half["b"], torch.tensor([-2.0], dtype=torch.float64))


@pytest.mark.parametrize("deviation", [0.25, 30.0])
def test_noise_has_the_deviation_that_is_stated_and_lies_on_its_grid(deviation: float) -> None:
    update = {"a": torch.full((300, 300), 2.0, dtype=torch.float64), "b": torch.zeros(10_000, dtype=torch.float64)}
    own = noised(update, keyed_generator(bytes(16), b""), deviation)
    noise = torch.cat([(own[name].double() - update[name]).flatten() for name in update])
    # 100,000 draws: three standard errors.
    assert float(noise.std()) == pytest.approx(deviation, rel=3 / math.sqrt(2e5))
    assert abs(float(noise.mean())) < 3 * deviation / math.sqrt(1e5)
    steps = torch.cat([value.double().flatten() for value in own.values()]) / (deviation * 2**-12)
    assert float((steps - steps.round()).abs().max()) < 0.02


def test_noise_hangs_on_what_it_is_keyed_by() -> None:
    update = {"a": torch.zeros(50, dtype=torch.float64)}
    first, again, other = (
        noised(update, keyed_generator(bytes(16), content), 1.0)["a"] for content in (b"1", b"1", b"2")
    )
    assert torch.equal(first, again)
    assert not np.isclose(first, other).any()


@pytest.mark.parametrize(("sigma", "rounds"), [(0.5, 1), (2.0, 1), (3.0, 10)])
def test_epsilon_of_rounds_is_that_of_one_gaussian_mechanism(sigma: float, rounds: int) -> None:
    """Of a client that is replaced, whose update moves by 2 C: in closed form, and by Google's accountant."""
    ours = composed_epsilon(0.0, 1e-5, Training(sigma, 1.0, rounds))
    assert ours == pytest.approx(epsilon(2 * math.sqrt(rounds) / sigma, 1e-5), rel=1e-9)
    accountant = PLDAccountant(NeighboringRelation.REPLACE_ONE, 1e-3)
    accountant.compose(GaussianDpEvent(sigma), rounds)
    assert ours == pytest.approx(accountant.get_epsilon(1e-5), rel=2e-2)
