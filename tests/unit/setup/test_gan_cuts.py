"""The cuts that a run's settings come to, and how long they should take."""

from __future__ import annotations

from typing import Any

import pytest

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.gan.networks import Cuts, build_architecture
from collafuse_flwr.setup.gan_cuts import modelled_seconds, plan_client_cuts, select_cuts
from tests.small_runs import dotted

NETS = build_architecture(1, 28, 10)


def config(**settings: Any) -> Config:
    return Config.from_flat({"strategy": "huscf_gan", "num_supernodes": 7} | dotted(settings))


def test_cuts_are_those_given_or_else_planned_or_else_the_least() -> None:
    assert select_cuts(config(), NETS) == (Cuts(),) * 7
    assert select_cuts(config(split_gan__min_cut="0010"), NETS) == (Cuts(d_head=1),) * 7
    planned = select_cuts(config(devices__profiles="paper7"), NETS)
    assert planned == plan_client_cuts(config(devices__profiles="paper7"), NETS).cuts
    assert len(set(planned)) > 1
    assert select_cuts(config(devices__profiles="paper7", split_gan__client_cuts="0010"), NETS) == (Cuts(d_head=1),) * 7


@pytest.mark.parametrize("model", ["paper", "corrected"])
def test_what_is_modelled_for_planned_cuts_is_what_the_planner_says(model: str) -> None:
    settings = config(devices__profiles="paper7", devices__latency_model=model)
    plan = plan_client_cuts(settings, NETS)
    seconds = modelled_seconds(settings, NETS, plan.cuts)
    assert seconds == pytest.approx(plan.seconds)
    least = modelled_seconds(settings, NETS, (Cuts(),) * 7)
    assert least is not None
    assert least > plan.seconds


def test_half_the_bytes_take_half_the_time_on_the_links() -> None:
    slow = {"devices.profiles": ["1000:0.001"] * 7, "devices.server_gflops": 1e9}
    full, half = (
        modelled_seconds(config(gan__wire_dtype=d, **slow), NETS, (Cuts(),) * 7) for d in ("float32", "float16")
    )
    assert full is not None
    assert half == pytest.approx(full / 2, rel=1e-4)


def test_nothing_is_modelled_or_planned_without_devices() -> None:
    assert modelled_seconds(config(), NETS, (Cuts(),) * 7) is None
    with pytest.raises(SettingError, match="devices"):
        plan_client_cuts(config(), NETS)
