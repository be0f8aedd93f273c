"""What a cut may be chosen by, and targets that make no sense."""

from __future__ import annotations

import math

import pytest

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError

CRITERION, TARGET = "cut.criterion", "cut.target"
DISCLOSURE: dict[str, object] = {"cut.policy": "by_disclosure"}


def test_the_cut_may_be_chosen_by_what_it_discloses() -> None:
    assert Config().cut_target() is None
    assert Config.from_flat(DISCLOSURE | {CRITERION: "epsilon", TARGET: 8}).cut_target() == ("epsilon", 8.0)
    low = Config.from_flat(DISCLOSURE | {CRITERION: "snr_db", TARGET: -12.5, "strategy": "pfdm"})
    assert low.cut_target() == ("snr_db", -12.5)
    assert Config.from_flat(DISCLOSURE | {CRITERION: "reid", TARGET: 1}).cut_target() == ("reid", 1.0)
    assert Config.from_flat(DISCLOSURE | {CRITERION: "snr_db"}).cut_target() == ("snr_db", 0.0), "decibels may be 0"


@pytest.mark.parametrize(
    ("name", "flat", "allowed"),
    [
        (
            TARGET,
            DISCLOSURE | {CRITERION: "reid", TARGET: 1.5},
            "a number above 0 and at most 1 when `cut.criterion` is reid",
        ),
        (
            TARGET,
            DISCLOSURE | {CRITERION: "reid", TARGET: 0},
            "a number above 0 and at most 1 when `cut.criterion` is reid",
        ),
        (TARGET, DISCLOSURE | {CRITERION: "bits", TARGET: 0}, "a number above 0 when `cut.criterion` is bits"),
        (TARGET, DISCLOSURE | {CRITERION: "bits"}, "a number above 0 when `cut.criterion` is bits"),
        (TARGET, DISCLOSURE | {CRITERION: "epsilon", TARGET: -1}, "a number above 0 when `cut.criterion` is epsilon"),
        (TARGET, DISCLOSURE | {CRITERION: "bits", TARGET: math.nan}, "a number"),
        (TARGET, DISCLOSURE | {CRITERION: "snr_db", TARGET: -math.inf}, "a number"),
        (TARGET, DISCLOSURE | {CRITERION: "epsilon", TARGET: "few"}, "a number"),
        (TARGET, DISCLOSURE | {CRITERION: "epsilon", TARGET: [8]}, "a number"),
        (
            TARGET,
            {"cut.policy": "by_device", TARGET: 0, "devices.profiles": ["1", "2"]},
            "a number above 0 when `cut.policy` is by_device",
        ),
        (
            TARGET,
            {TARGET: 3},
            "0.0, its default, unless `cut.criterion` is snr_db or `cut.criterion` is bits or `cut.criterion` is "
            "epsilon or `cut.criterion` is reid or `cut.policy` is by_device",
        ),
        (
            "cut.policy",
            {"cut.policy": "by_device", TARGET: 5},
            "another one unless `devices.profiles` lists the clients' devices",
        ),
        (
            CRITERION,
            {CRITERION: "bits", "strategy": "fedavg"},
            "'none', its default, as `strategy` = fedavg does not read it",
        ),
        (
            "cut.client_ratios",
            DISCLOSURE | {CRITERION: "bits", TARGET: 3, "cut.client_ratios": [0.1, 0.2]},
            "[], its default, unless `cut.policy` is fixed",
        ),
        (
            CRITERION,
            {CRITERION: "bits", TARGET: 3},
            "'none', its default, unless `cut.policy` is by_disclosure or `cut.policy` is adaptive",
        ),
        (
            CRITERION,
            DISCLOSURE | {CRITERION: "none"},
            "one of snr_db, bits, epsilon, reid when `cut.policy` is by_disclosure",
        ),
    ],
)
def test_a_target_that_makes_no_sense_is_refused(name: str, flat: dict[str, object], allowed: str) -> None:
    with pytest.raises(SettingError) as caught:
        Config.from_flat({"num_supernodes": 2} | flat)
    assert (caught.value.name, caught.value.allowed) == (name, allowed)
    assert str(caught.value.value) == str(flat.get(name, 0.0)) or caught.value.value == flat[name]


def test_the_yardstick_has_one_cut_for_all() -> None:
    for name, value in (("cut.client_ratios", [0.1, 0.2]), ("cut.policy", "adaptive")):
        with pytest.raises(SettingError, match=rf"^`{name}` = .* its default, as `strategy` = clean_server does not"):
            Config.from_flat({"strategy": "clean_server", "num_supernodes": 2, name: value})
    assert Config.from_flat({"strategy": "clean_server", "cut_ratio": 0.5}).cut_ratios() == (0.5,) * 10
