"""Cuts that are planned anew: for whom, when, and within which limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.gan.networks import Cuts, build_architecture
from collafuse_flwr.setup.gan_cuts import modelled_seconds, plan_client_cuts, select_cuts
from collafuse_flwr.setup.gan_recuts import DRIFT, SPAN, Replan, batch_seconds, check_recut, replan, simulated_seconds
from tests.small_runs import dotted

NETS = build_architecture(1, 8, 10, width=2)
CLIENTS = 4
ALIKE = (1.0,) * CLIENTS
FOUR: dict[str, Any] = {
    "strategy": "huscf_gan",
    "num_supernodes": CLIENTS,
    "devices.profiles": ["0.5:5"] * CLIENTS,
    "devices.server_gflops": 0.5,
    "gan.width": 2,
    "gan.batch_size": 8,
    "split_gan.replan_rounds": 1,
}


def config(**settings: Any) -> Config:
    return Config.from_flat(FOUR | dotted(settings))


def plan(own: Config, slow: dict[int, float], least: dict[int, Cuts] | None = None) -> Replan | None:
    """What is planned where clients compute so many times as long as their devices."""
    times = [slow.get(client, 1.0) for client in range(CLIENTS)]
    cuts = select_cuts(own, NETS)
    measured = dict(enumerate(batch_seconds(own, NETS, cuts, times).tolist()))
    return replan(own, NETS, cuts, ALIKE, measured, least or {})


def test_one_that_slows_down_is_cut_anew_and_the_others_stay() -> None:
    own, slow = config(), {2: 8.0}
    planned, before = plan(own, slow), select_cuts(own, NETS)
    assert planned is not None
    assert [c for c in range(CLIENTS) if planned.cuts[c] != before[c]] == [2]
    assert planned.slowness == pytest.approx((1, 1, 8, 1))
    assert planned.seconds < 0.95 * planned.seconds_before
    # It is the best of all cuts for that client, by trying them.
    slowed = config(devices__slowdowns="2:8:1")
    each = [Cuts(*digits) for digits in np.ndindex(2, 2, 2, 2)]
    tried = [modelled_seconds(slowed, NETS, [*before[:2], cut, before[3]], 1) for cut in each]
    assert planned.seconds == pytest.approx(min(one for one in tried if one is not None))
    assert planned.seconds_before == pytest.approx(tried[each.index(before[2])])


def test_what_everybody_measures_moves_the_cuts_to_what_would_have_been_planned() -> None:
    own = config()
    planned = plan(own, dict.fromkeys(range(CLIENTS), 20.0))
    slow = config(devices__profiles=[f"{0.5 / 20}:5"] * CLIENTS)
    assert planned is not None
    assert planned.cuts == plan_client_cuts(slow, NETS).cuts != select_cuts(own, NETS)


def test_noise_moves_nothing() -> None:
    rng, own = np.random.default_rng(0), config()
    for _ in range(20):
        noise = DRIFT ** rng.uniform(-0.99, 0.99, CLIENTS)
        assert plan(own, dict(enumerate(noise.tolist()))) is None


def test_a_change_that_saves_next_to_nothing_moves_nothing() -> None:
    own = config(devices__profiles=["500:5000"] * CLIENTS)
    assert plan(own, {2: 2.0}) is None


def test_no_cut_is_below_the_least_of_the_settings_or_of_its_client() -> None:
    free = plan(config(), {2: 8.0})
    assert free is not None
    assert free.cuts[2] == Cuts()
    held = plan(config(split_gan__min_cut="0010"), {2: 8.0})
    assert held is not None
    assert held.cuts[2].d_head == 1
    own = plan(config(), {2: 8.0}, {2: Cuts.parse("0011")})
    assert own is not None
    assert (own.cuts[2].d_head, own.cuts[2].d_tail) == (1, 1)


def test_what_is_planned_anew_fits_the_memory() -> None:
    """Whoever is quicker than it was said to be takes blocks, and no more than it can hold."""
    quicker = dict.fromkeys(range(CLIENTS), 1 / 30)
    roomy = plan(config(devices__profiles=["0.05:500"] * CLIENTS), quicker)
    assert roomy is not None
    assert roomy.cuts == (Cuts.parse("1111"),) * CLIENTS
    own = config(devices__profiles=["0.05:500:0.125"] * CLIENTS)
    planned = plan(own, quicker)
    assert planned is not None
    for client in range(CLIENTS):
        assert select_cuts(own, NETS)[client] != planned.cuts[client] != Cuts.parse("1111")
        check_recut(own, NETS, client, planned.cuts[client])


@pytest.mark.parametrize(("times", "believed"), [(1e6, SPAN), (1e-6, 1 / SPAN)])
def test_nobody_is_believed_to_be_of_another_kind_altogether(times: float, believed: float) -> None:
    own = config(devices__profiles=["0.05:500" if times < 1 else "0.5:5"] * CLIENTS)
    planned = plan(own, dict.fromkeys(range(CLIENTS), times))
    assert planned is not None
    assert planned.slowness == pytest.approx((believed,) * CLIENTS)


def test_who_was_not_measured_keeps_its_cut() -> None:
    own = config()
    cuts = select_cuts(own, NETS)
    seconds = batch_seconds(own, NETS, cuts, (8.0,) * CLIENTS)
    planned = replan(own, NETS, cuts, ALIKE, {1: float(seconds[1])}, {})
    assert planned is not None
    assert [planned.cuts[c] == cuts[c] for c in range(CLIENTS)] == [True, False, True, True]


def test_a_simulations_seconds_are_those_of_devices_as_they_are_in_the_round() -> None:
    own = config(devices__slowdowns=["2:8:3", "2:1:5"])
    cuts = select_cuts(own, NETS)
    usual, slow = batch_seconds(own, NETS, cuts), batch_seconds(own, NETS, cuts, (1, 1, 8, 1))
    for round_, expected in ((2, usual), (3, slow), (4, slow), (5, usual)):
        assert simulated_seconds(own, NETS, cuts, round_) == pytest.approx(dict(enumerate(expected)))
    assert slow[2] > usual[2]
    assert (slow[[0, 1, 3]] == usual[[0, 1, 3]]).all()


@pytest.mark.parametrize(
    ("settings", "cuts", "message"),
    [
        ({"split_gan__min_cut": "0010"}, "1101", "`split_gan.min_cut` = '0010' is not allowed: at most 1101, which"),
        ({"split_gan__min_cut": "0100"}, "1011", "`split_gan.min_cut` = '0100' is not allowed: at most 1011, which"),
        ({}, "2000", "at most 1 extra blocks in the head of the generator"),
        (
            {"devices__profiles": ["0.5:5:0.1"] * CLIENTS},
            "1111",
            "`devices.profiles` = '0.5:5:0.1' is not allowed: one with 0.1 MB or more for the cuts 1111, which the",
        ),
    ],
)
def test_a_client_refuses_cuts_beyond_its_limits(settings: dict[str, Any], cuts: str, message: str) -> None:
    own = config(**settings)
    check_recut(own, NETS, 1, Cuts.parse(own.split_gan.min_cut))
    with pytest.raises(SettingError, match=message):
        check_recut(own, NETS, 1, Cuts.parse(cuts))
