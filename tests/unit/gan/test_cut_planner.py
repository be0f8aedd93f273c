"""The planned cuts are the best there are, whatever the networks, devices and limits."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from collafuse_flwr.config.devices import PROFILES, Device, parse_devices
from collafuse_flwr.core.errors import SettingError, UserError
from collafuse_flwr.gan.networks import Cuts, build_architecture
from collafuse_flwr.gan.planning.block_cost import BlockCost, GanCost, measure
from collafuse_flwr.gan.planning.cut_planner import plan_cuts
from collafuse_flwr.gan.planning.genetic import evolve_cuts
from collafuse_flwr.gan.planning.latency_model import IntArray, LatencyModel, build_latency_model

SERVER = Device("server", 672e9, 1e9)
PAPER, TRUE = (measure(build_architecture(1, 28, 10), 64, model) for model in ("paper", "corrected"))
NUMBERS = st.integers(0, 20).map(float)
BLOCKS = st.builds(BlockCost, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
#: Three blocks leave no choice, seven three levels at each end.
NET = st.sampled_from((3, 4, 5, 5, 5, 6, 7)).flatmap(lambda count: st.tuples(*[BLOCKS] * count))
RATES = st.sampled_from((0.25, 1.0, 3.0, 8.0))
MEMORY = st.sampled_from((math.inf, math.inf, 300.0, 600.0, 900.0))
DEVICES = st.lists(st.builds(Device, st.just("d"), RATES, RATES, MEMORY), min_size=1, max_size=3)


def choices(model: LatencyModel, least: Cuts) -> IntArray:
    """All that each kind may keep, within its memory, (choices, 4) for each kind."""
    low = model.extra([least])[:, 0]
    levels = [range(a, end.levels) for a, end in zip(low.tolist(), model.ends, strict=True)]
    return np.array(list(itertools.product(*levels))).reshape(-1, 4)


def brute_force(model: LatencyModel, least: Cuts) -> float:
    """The least of all allowed combinations; inf if there is none."""
    rows = choices(model, least)
    memory = sum(end.memory[rows[:, i]] for i, end in enumerate(model.ends))
    fitting = [rows[memory <= device.memory] for device in model.kinds]
    combined = np.array(list(itertools.product(*fitting)))
    return float(model.seconds(combined.swapaxes(1, 2)).min()) if len(combined) else math.inf


@settings(max_examples=100)
@given(NET, NET, DEVICES, st.sampled_from(("paper", "corrected")), st.booleans(), st.booleans())
def test_it_is_the_best_of_all(
    generator: tuple[BlockCost, ...],
    discriminator: tuple[BlockCost, ...],
    devices: list[Device],
    model: str,
    limited: bool,
    private: bool,
) -> None:
    """Also among plans that treat equal devices unequally, if memory is no limit."""
    devices = devices if limited else [replace(device, memory=math.inf) for device in devices]
    cost, server = GanCost(generator, discriminator), Device("server", 4.0, 5.0)
    built = build_latency_model(cost, devices, server, model=model, message_latency=0.5)  # type: ignore[arg-type]
    apart = build_latency_model(cost, devices, server, model=model, message_latency=0.5, alike=False)  # type: ignore[arg-type]
    searched = built if limited else apart
    least = Cuts(d_head=int(private and built.ends[2].levels > 1))
    assume(len(choices(searched, least)) ** len(searched.kinds) <= 5_000)
    best = brute_force(searched, least)
    if math.isinf(best):
        with pytest.raises(UserError, match=r"^client \d \(device d\) has \S+ MB for its networks, and the"):
            plan_cuts(built, least)
        return
    plan = plan_cuts(built, least)
    assert plan.seconds == pytest.approx(best, rel=1e-9)
    assert plan.seconds == pytest.approx(float(apart.seconds(apart.extra(plan.cuts))), rel=1e-9)
    assert all(cut.d_head >= least.d_head for cut in plan.cuts)
    assert (apart.memory(apart.extra(plan.cuts)) <= apart.capacity()).all()


@pytest.mark.parametrize(("clients", "low", "high"), [(7, 3.18, 3.18), (20, 3.87, 3.95), (80, 6.85, 7.12)])
def test_the_papers_optimum(clients: int, low: float, high: float) -> None:
    """With every remainder that dealing seven devices equally may leave."""
    each, rest = divmod(clients, 7)
    seconds = []
    for more in itertools.combinations(PROFILES.values(), rest):
        devices = [device for device in PROFILES.values() for _ in range(each + (device in more))]
        seconds.append(plan_cuts(build_latency_model(PAPER, devices, SERVER, model="paper")).seconds)
    assert min(seconds) == pytest.approx(low, rel=0.005)
    assert max(seconds) == pytest.approx(high, rel=0.005)


def test_the_papers_cuts_for_each_device() -> None:
    plan = plan_cuts(build_latency_model(PAPER, parse_devices(("paper7",), 80), SERVER, model="paper"))
    assert [str(cut) for cut in plan.cuts[:7]] == ["0000", "1111", "1111", "1111", "0010", "1110", "1111"]
    assert plan.cuts[7:14] == plan.cuts[:7]


@pytest.mark.parametrize(("cost", "model"), [(PAPER, "paper"), (TRUE, "corrected")])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_never_worse_than_the_genetic_search(cost: GanCost, model: str, seed: int) -> None:
    apart = build_latency_model(cost, parse_devices(("paper7",), 14), SERVER, model=model, alike=False)  # type: ignore[arg-type]
    evolved = evolve_cuts(apart, Cuts(d_head=1), population=101, generations=30, seed=seed)
    again = evolve_cuts(apart, Cuts(d_head=1), population=101, generations=30, seed=seed)
    assert evolved == again
    assert all(cut.d_head == 1 for cut in evolved.cuts)
    assert plan_cuts(apart, Cuts(d_head=1)).seconds <= evolved.seconds
    first = float(apart.seconds(apart.extra([Cuts(d_head=1)] * 14)))
    assert evolved.seconds < first


def test_the_genetic_search_finds_the_optimum_of_a_small_case() -> None:
    devices = parse_devices(
        (
            "2",
            "3",
            "5",
            "6",
        ),
        4,
    )
    model = build_latency_model(TRUE, devices, SERVER, alike=False)
    evolved = evolve_cuts(model, population=200, generations=40)
    assert evolved.seconds == pytest.approx(plan_cuts(model).seconds)


def test_a_limit_of_memory_moves_blocks_to_the_server() -> None:
    slow = Device("slow", 1e9, 1e9)
    free = build_latency_model(
        TRUE,
        parse_devices(
            (
                "3",
                "3",
            ),
            2,
        ),
        slow,
    )
    needed = float(free.memory(free.extra(plan_cuts(free).cuts[:1]))[0])
    tight = build_latency_model(TRUE, [replace(PROFILES["3"], memory=needed - 1)] * 2, slow)
    plan = plan_cuts(tight)
    assert plan.seconds > plan_cuts(free).seconds
    assert tight.memory(tight.extra(plan.cuts[:1]))[0] < needed


def test_what_cannot_be_kept_is_refused_in_one_line() -> None:
    model = build_latency_model(
        TRUE,
        parse_devices(
            (
                "3",
                "100:10:20",
            ),
            2,
        ),
        SERVER,
    )
    with pytest.raises(
        UserError, match=r"^client 1 \(device 100:10:20\) has 20 MB .*smallest cut that is allowed, 0010, needs \d+"
    ):
        plan_cuts(model, Cuts(d_head=1))
    with pytest.raises(SettingError, match=r"^`split_gan.min_cut` = '0020' .* at most 1 for these networks"):
        plan_cuts(model, Cuts(d_head=2))
    limited = build_latency_model(TRUE, [replace(PROFILES["3"], memory=70e6)] * 30, SERVER, alike=False)
    with pytest.raises(UserError, match=r"`cut_planner\.algorithm` = genetic found no cuts that fit"):
        evolve_cuts(limited, population=4, generations=1)
