"""A client's exploration: warm-up at the largest cut, what JSON keeps of it, and the best of stationary cuts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collafuse_flwr.client.adaptive_cut import AdaptiveCut, cost
from collafuse_flwr.privacy.settings import CutConfig

CONFIG = CutConfig(policy="adaptive", warmup_rounds=2, exploration_rounds=12)


def explored(cuts: tuple[int, ...], rewards: dict[int, float]) -> list[int]:
    """The cuts of 16 rounds, each kept as JSON from one to the next."""
    state, seen = None, []
    for _ in range(16):
        adaptive = AdaptiveCut.of(CONFIG, cuts, state)
        seen.append(adaptive.cut)
        state = json.loads(json.dumps(adaptive.after(rewards[adaptive.cut]).state()))
    return seen


def test_it_warms_up_tries_the_cuts_and_keeps_to_the_best() -> None:
    assert (
        explored((4, 8, 12), {4: 0.1, 8: 0.3, 12: 0.2})
        == [12] * 2 + [12, 8, 4, 4, 8, 12] + [12, 8, 8, 12, 12, 8] + [8] * 2
    )


@given(st.permutations([4, 8, 12]), st.permutations([0.1, 0.2, 0.3]))
def test_the_order_of_the_settings_does_not_matter(cuts: list[int], rewards: list[float]) -> None:
    paid = dict(zip((4, 8, 12), rewards, strict=True))
    seen = explored(tuple(cuts), paid)
    assert seen == explored((4, 8, 12), paid)
    assert paid[seen[-1]] == 0.3


def test_of_equal_cuts_it_keeps_to_the_one_that_discloses_least() -> None:
    assert explored((4, 8, 12), dict.fromkeys((4, 8, 12), 0.0))[-1] == 12


def test_other_cuts_are_explored_from_the_beginning() -> None:
    state = AdaptiveCut.of(CONFIG, (4, 8), None).after(0.0).after(0.0).after(1.0).state()
    assert AdaptiveCut.of(CONFIG, (4, 8), state).cut == 4
    assert AdaptiveCut.of(CONFIG, (4, 8, 12), state) == AdaptiveCut.of(CONFIG, (4, 8, 12), None)


def test_one_cut_is_kept_to() -> None:
    assert set(explored((8,), {8: -1.0})) == {8}


def test_a_cost_is_seconds_and_bytes_in_their_scales() -> None:
    assert cost(CutConfig(second_scale=10.0, mb_scale=2.0), 5.0, 3e6) == pytest.approx(0.5 + 1.5)
