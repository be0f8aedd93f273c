"""A client's work over a whole run is its budget, however it is spread over the rounds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.client.state_store import ClientState
from collafuse_flwr.client.training_plan import RoundPlan, plan_round
from collafuse_flwr.config.config import Config
from tests.small_runs import dotted

T = 50


def some(**given: Any) -> Config:
    return Config.from_flat({"diffusion.timesteps": T, "client.init_from": "random"} | dotted(given))


def whole_run(config: Config, num_images: int, cut: int, rounds: list[int] | None = None) -> list[RoundPlan]:
    """What a client that is selected in these rounds (None: in all) plans, round by round."""
    total, ledger, plans = config.run.num_rounds, ClientState(), []
    for round_ in rounds or range(1, total + 1):
        plans.append(plan_round(config, ledger, round_, total, num_images, cut))
        ledger = plans[-1].ledger
    return plans


@st.composite
def runs(draw: st.DrawFn) -> tuple[Config, int, int]:
    """Settings, the number of images and the cut of one client."""
    num_rounds = draw(st.integers(1, 30))
    init_from = draw(st.sampled_from(["random", "backbone"]))
    start_round = draw(st.integers(0, num_rounds)) if init_from == "backbone" else 0
    config = some(
        num_rounds=num_rounds,
        train__local_epochs=draw(st.floats(0.01, 20)),
        client__batch_size=draw(st.integers(1, 200)),
        client__update_budget=draw(st.sampled_from(["proportional", "full"])),
        client__init_from=init_from,
        client__start_round=start_round,
    )
    return config, draw(st.integers(1, 2000)), draw(st.integers(0, T))


def budget(config: Config, num_images: int, cut: int) -> float:
    """Image updates of a whole run, from the definition."""
    share = {"proportional": cut / T, "full": float(cut > 0)}[config.client.update_budget]
    return config.run.num_rounds * config.train.local_epochs * num_images * share


@settings(max_examples=200)
@given(runs())
def test_a_run_spends_the_budget_within_one_batch(run: tuple[Config, int, int]) -> None:
    config, num_images, cut = run
    plans = whole_run(config, num_images, cut)
    batch, total = config.client.batch_size, budget(config, num_images, cut)
    done = batch * sum(plan.steps for plan in plans)
    slack = 1e-6 * (1 + total)
    assert total - batch - slack <= done <= total + slack
    assert plans[-1].ledger.deferred_updates == pytest.approx(total - done, abs=slack)


@settings(max_examples=200)
@given(runs())
def test_no_round_takes_steps_back_or_forgets_updates(run: tuple[Config, int, int]) -> None:
    config, num_images, cut = run
    plans = whole_run(config, num_images, cut)
    spent = 0.0
    for round_, plan in enumerate(plans, start=1):
        spent += plan.steps * config.client.batch_size
        assert plan.steps >= 0
        assert plan.ledger.round == round_
        so_far = budget(config, num_images, cut) * round_ / config.run.num_rounds
        assert plan.ledger.deferred_updates + spent == pytest.approx(so_far, rel=1e-6, abs=1e-6)


@settings(max_examples=100)
@given(runs())
def test_a_client_that_waits_for_the_backbone_catches_up_evenly(run: tuple[Config, int, int]) -> None:
    """It owes nothing at the end, and no round after the wait is more than a batch longer than another."""
    config, num_images, cut = run
    plans = whole_run(config, num_images, cut)
    steps = [plan.steps for plan in plans]
    first = next((plan.ledger.first_round for plan in plans if plan.ledger.first_round), 0)
    if first:
        assert not any(steps[: first - 1])
        assert max(steps[first - 1 :]) - min(steps[first - 1 :]) <= 1
    else:
        assert not any(steps)


def test_the_round_it_starts_in_is_the_one_that_the_settings_choose() -> None:
    plans = whole_run(some(num_rounds=10, client__init_from="backbone"), 100, 10)
    assert [plan.steps > 0 for plan in plans] == [False] * 7 + [True] * 3
    assert [plan.ledger.first_round for plan in plans] == [0] * 7 + [8] * 3
    assert whole_run(some(num_rounds=10, client__init_from="backbone", client__start_round=1), 100, 10)[0].steps > 0


@pytest.mark.parametrize("client_init", ["random", "backbone"])
@pytest.mark.parametrize("effort", ["proportional", "full"])
def test_a_client_without_a_part_of_the_chain_never_trains(client_init: str, effort: str) -> None:
    plans = whole_run(some(client__init_from=client_init, client__update_budget=effort), 100, 0)
    assert {plan.steps for plan in plans} == {0}
    assert plans[-1].ledger == ClientState(round=10)


@pytest.mark.parametrize("client_init", ["random", "backbone"])
@pytest.mark.parametrize("effort", ["proportional", "full"])
def test_a_client_with_the_whole_chain_is_a_local_ddpm_that_waits_for_nobody(client_init: str, effort: str) -> None:
    plans = whole_run(
        some(
            client__init_from=client_init, client__update_budget=effort, train__local_epochs=2.0, client__batch_size=10
        ),
        100,
        T,
    )
    assert [plan.steps for plan in plans] == [20] * 10


def test_the_share_of_the_chain_is_the_share_of_the_work_unless_effort_is_full() -> None:
    for cut in (5, 10, 25, 50):
        done = {
            effort: sum(
                plan.steps for plan in whole_run(some(client__update_budget=effort, client__batch_size=10), 100, cut)
            )
            for effort in ("proportional", "full")
        }
        assert done["full"] == 1000
        assert done["proportional"] == 1000 * cut / T


def test_less_than_a_batch_a_round_is_saved_up() -> None:
    """25 updates a round in batches of 100 are two steps in eight rounds."""
    plans = whole_run(some(num_rounds=8, train__local_epochs=1.0, client__batch_size=100), 125, 10)
    assert sum(plan.steps for plan in plans) == 2
    assert plans[-1].ledger.deferred_updates == 0


def test_a_client_does_the_work_of_the_rounds_it_is_selected_in() -> None:
    config = some(num_rounds=10, train__local_epochs=1.0, client__batch_size=10)
    plans = whole_run(config, 100, 25, rounds=[2, 5, 9])
    assert [plan.steps for plan in plans] == [5, 5, 5]
    assert plans[-1].ledger.first_round == 2


def test_planning_again_gives_the_same() -> None:
    config, ledger = some(), ClientState(round=3, first_round=1, deferred_updates=7.5)
    first = plan_round(config, ledger, 4, 10, 100, 10)
    assert plan_round(config, ledger, 4, 10, 100, 10) == first
    assert ledger == ClientState(round=3, first_round=1, deferred_updates=7.5)
