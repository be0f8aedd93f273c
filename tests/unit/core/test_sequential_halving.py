"""Sequential Halving finds the best arm, as often as it is proved to, and in the pulls that it says."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collafuse_flwr.core.sequential_halving import SequentialHalving, fewest_pulls


def explored(bandit: SequentialHalving, rewards: list[float], trend: float = 0.0) -> tuple[int, list[int]]:
    """The arm that is left where each pays the same at every pull, plus a trend, and the arms that were pulled."""
    pulled: list[int] = []
    while bandit.exploring:
        pulled.append(bandit.arm)
        bandit = bandit.observe(rewards[bandit.arm] + trend * len(pulled))
    return bandit.arm, pulled


@pytest.mark.parametrize(("arms", "budget", "pulls"), [(2, 0, 2), (3, 0, 5), (3, 12, 12), (4, 16, 16), (5, 30, 29)])
def test_the_pulls_of_a_budget_in_closed_form(arms: int, budget: int, pulls: int) -> None:
    bandit = SequentialHalving.over(arms, budget)
    best, pulled = explored(bandit, [0.0] * arms)
    assert len(pulled) == bandit.pulls() == pulls
    assert best == 0, "the first of equals"


def test_a_phase_goes_forwards_and_backwards() -> None:
    _, pulled = explored(SequentialHalving.over(4, 32), [0.1, 0.4, 0.3, 0.2])
    assert pulled == [0, 1, 2, 3, 3, 2, 1, 0, 0, 1, 2, 3, 3, 2, 1, 0] + [1, 2, 2, 1] * 4


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=7, unique=True), st.integers(0, 60))
def test_the_best_of_stationary_arms_is_left(rewards: list[float], budget: int) -> None:
    bandit = SequentialHalving.over(len(rewards), budget)
    best, pulled = explored(bandit, rewards)
    assert best == rewards.index(max(rewards))
    assert len(pulled) == bandit.pulls() <= max(budget, fewest_pulls(len(rewards)))


@pytest.mark.parametrize("trend", [-1.0, 1.0])
def test_a_linear_trend_of_all_arms_does_not_matter(trend: float) -> None:
    """A hundred times the gap of the arms, over an even number of passes in each phase."""
    for rewards in itertools.permutations([0.01, 0.02, 0.03, 0.04]):
        assert explored(SequentialHalving.over(4, 32), list(rewards), trend)[0] == rewards.index(0.04)


def test_the_best_arm_is_missed_no_oftener_than_is_proved() -> None:
    """Theorem 4.1, where its bound says something: Bernoulli rewards, gaps of 0.5."""
    means, budget, runs = [0.25, 0.75, 0.25, 0.25], 700, 100
    hardness = max(i / 0.5**2 for i in (2, 3, 4))
    bound = 3 * math.log2(4) * math.exp(-budget / (8 * hardness * math.log2(4)))
    assert bound < 0.5
    random, missed = np.random.default_rng(0), 0
    for _ in range(runs):
        bandit = SequentialHalving.over(len(means), budget)
        while bandit.exploring:
            bandit = bandit.observe(float(random.random() < means[bandit.arm]))
        missed += bandit.arm != 1
    assert missed / runs <= bound


def test_noise_of_equal_gaps_is_averaged_out_by_more_pulls() -> None:
    def errors(budget: int) -> int:
        random, missed = np.random.default_rng(1), 0
        for _ in range(200):
            bandit = SequentialHalving.over(4, budget)
            while bandit.exploring:
                bandit = bandit.observe(float(random.normal(0.3 * (bandit.arm == 2), 1)))
            missed += bandit.arm != 2
        return missed

    assert errors(8) > 2 * errors(400)


def test_rewards_after_the_exploration_change_nothing() -> None:
    bandit = SequentialHalving.over(2).observe(0.0).observe(1.0)
    assert (bandit.arm, bandit.exploring) == (1, False)
    assert bandit.observe(-5.0) == bandit
