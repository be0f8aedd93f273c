"""Cuts of the split GAN that move in the midst of a run: the same mathematics, and a device that slows down."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message
from torch import Tensor

from collafuse_flwr.client.huscf_gan import HuscfGanClient
from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.config.config import Config
from collafuse_flwr.gan.networks import Architecture, Cuts
from collafuse_flwr.gan.split_gan.block_moments import (
    block_moments,
    cuts_of,
    every_moment,
    leaving,
    load_block_moments,
    moments_template,
)
from collafuse_flwr.gan.split_gan.ops import PHASES
from collafuse_flwr.setup.gan_recuts import Replan
from strategies import recutting
from strategies.huscf_gan import HuscfGan
from strategies.recutting import BatchClock
from strategies.retry_grid import RetryGrid
from tests.component.strategies.test_huscf_gan import die, fail, run, spoiled, state
from tests.small_runs import GAN_OPTIONS, bytes_of, here_is, metrics

#: One client, whose cut moves after every round.
ALONE: dict[str, Any] = {"num_supernodes": 1, "num_rounds": 4, "split_gan.init": "common", "devices.profiles": ["2"]}
STEPS = ("0000", "1111", "0110", "0000")
#: Four clients that keep all they can, of which one takes eight times as long from the second round on.
SLOWING: dict[str, Any] = {
    "num_rounds": 3,
    "split_gan.client_cuts": "",
    "split_gan.replan_rounds": 1,
    "devices.profiles": ["0.5:5"] * 4,
    "devices.server_gflops": 0.5,
    "devices.slowdowns": "2:8:2",
}


def planning(monkeypatch: pytest.MonkeyPatch, rounds: Sequence[Sequence[str]]) -> None:
    """Let the cuts of each round be these, whatever is measured."""
    planned = iter(rounds[1:])

    def plan(config: Config, nets: Architecture, cuts: Sequence[Cuts], slowness: Any, *_: Any) -> Replan | None:
        own = next(planned, None)
        return None if own is None else Replan(tuple(map(Cuts.parse, own)), tuple(slowness), 2.0, 1.0)

    monkeypatch.setattr(recutting, "replan", plan)
    monkeypatch.setattr("strategies.huscf_gan.select_cuts", lambda *_: tuple(map(Cuts.parse, rounds[0])))


def everything(made: HuscfGan, folder: Path, client: int = 0) -> dict[str, Tensor]:
    """All that trains, of the blocks that a client keeps and of those that it leaves to the server, by block."""
    kept = state(folder, client)
    player = here_is(made.config, folder, client)
    assert isinstance(player, HuscfGanClient)
    half = player._open(cuts_of(kept)).half
    half.load(kept)
    own = half.blocks() | every_moment(half)
    theirs = made.half.blocks() | every_moment(made.half)
    return own | {name: value for name, value in theirs.items() if name not in own}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


@pytest.mark.parametrize("engine", ["messages", "in_process"])
@pytest.mark.parametrize("options", [{}, {"split_gan.ema": 0.9, "split_gan.average_server_blocks": False}])
def test_blocks_that_change_hands_train_on_as_if_they_had_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, options: dict[str, Any]
) -> None:
    """One client's nets are the same whoever keeps which block: weights, statistics, moments and averages."""
    settings = ALONE | options | {"gan.transport": engine}
    stays = run(tmp_path / "stays", **settings | {"split_gan.client_cuts": "0000"})
    planning(monkeypatch, [[cut] for cut in STEPS])
    moves = run(tmp_path / "moves", **settings | {"split_gan.client_cuts": "", "split_gan.replan_rounds": 1})
    assert [row["server"]["client_cuts"]["0"] for row in metrics(tmp_path / "moves")] == list(STEPS)
    one, other = everything(stays, tmp_path / "stays"), everything(moves, tmp_path / "moves")
    assert any(name.startswith("ema:") for name in one) == bool(options)
    assert any(name.startswith("exp_avg_sq:") for name in one)
    same(one, other)


@pytest.fixture(scope="module", params=[{}, GAN_OPTIONS], ids=["defaults", "every option"])
def slowed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run in which a device slows down, and its settings."""
    folder, options = tmp_path_factory.mktemp("slowed"), SLOWING | request.param
    run(folder, **options)
    return folder, options


def test_a_device_that_slows_down_is_cut_anew_and_no_other(slowed: tuple[Path, dict[str, Any]]) -> None:
    first, second, third = [row["server"] for row in metrics(slowed[0])]
    assert "replanned" not in first
    assert first["client_cuts"] == second["client_cuts"] == dict.fromkeys("0123", "1111")
    cut = third["client_cuts"].pop("2")
    assert cut != "1111"
    assert third["client_cuts"] == dict.fromkeys("013", "1111")
    assert second["replanned"]["cuts"] == {"2": cut}
    assert second["replanned"]["slowness"] == pytest.approx([1, 1, 8, 1])
    took = [own["modelled_seconds"] / own["steps"] for own in (first, second, third)]
    assert took[1] == pytest.approx(second["replanned"]["iteration_before"])
    assert took[2] == pytest.approx(second["replanned"]["iteration"])
    assert took[0] < took[2] < 0.9 * took[1]
    # It suits the device as it is now.
    assert "replanned" not in third


def test_blocks_take_their_past_with_them(tmp_path: Path) -> None:
    """The server goes on with the moments of the one client that leaves it a block, after as many steps."""
    made = run(tmp_path, **SLOWING | {"num_rounds": 2})
    (cut,) = made.recutting.coming.values()
    moved = leaving(Cuts.parse("1111"), cut, made.architecture)
    assert moved
    kept = state(tmp_path, 2)
    player = here_is(made.config, tmp_path, 2)
    assert isinstance(player, HuscfGanClient)
    half = player._open(Cuts.parse("1111")).half
    half.load(kept)
    theirs = block_moments(half, moments_template(made.architecture, moved, averaged=False))
    made.recutting.begin(made.half)
    ours = every_moment(made.half)
    assert theirs
    same(theirs, {name: ours[name] for name in theirs})


def test_one_process_moves_cuts_as_messages_do(slowed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    by_messages, options = slowed
    run(tmp_path, **options, gan__transport="in_process")
    ours, theirs = bytes_of(by_messages), bytes_of(tmp_path)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert [row["server"] for row in metrics(by_messages)] == [row["server"] for row in metrics(tmp_path)]


@pytest.mark.parametrize(("kind", "round_"), [("train", 2), ("train.split", 3), ("evaluate", 3)])
def test_a_resumed_run_moves_the_cuts_of_the_uninterrupted_one(
    slowed: tuple[Path, dict[str, Any]], tmp_path: Path, kind: str, round_: int
) -> None:
    uninterrupted, options = slowed

    def at(now: str, phase: str, in_round: int, step: int) -> bool:
        return (now, in_round) == (kind, round_) and (phase in ("", "score"))

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, spoiled(2, at, die), **options)
    run(tmp_path, **options)
    assert metrics(uninterrupted) == metrics(tmp_path)
    assert bytes_of(uninterrupted) == bytes_of(tmp_path)


def test_who_does_not_end_its_round_keeps_its_cut_and_is_planned_for_again(tmp_path: Path) -> None:
    app = spoiled(2, lambda kind, _, round_, __: (kind, round_) == ("train", 2), fail)
    made = run(tmp_path, app, **SLOWING | {"num_rounds": 4})
    rows = metrics(tmp_path)
    assert "2" in rows[1]["failed"]
    cuts = [row["server"]["client_cuts"]["2"] for row in rows]
    assert cuts[:3] == ["1111"] * 3
    assert cuts[3] == str(made.cuts[2]) != "1111"
    assert rows[3]["failed"] == rows[3]["rejected"] == {}


def test_who_fails_after_its_cut_has_moved_is_sent_again_what_it_needs(tmp_path: Path) -> None:
    """It takes blocks back, and its round is lost: the moments are sent as its next one begins."""
    back = SLOWING | {"num_rounds": 6, "devices.slowdowns": ["2:8:2", "2:1:3"]}
    sent: dict[int, bool] = {}

    def call(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train.split" and context.node_config["partition-id"] == 2:
            request, records = message.content.config_records["config"], message.content.array_records
            if (request["step"], request["phase"]) == (0, "latent"):
                weights = records["weights"] if "weights" in records else ArrayRecord()
                sent[int(str(request["round"]))] = any(":" in name for name in weights)
        return client_app(message, context)

    fails = spoiled(2, lambda kind, _, round_, __: (kind, round_) == ("train", 4), fail, call)
    run(tmp_path, fails, **back)
    assert [row["server"]["client_cuts"]["2"] for row in metrics(tmp_path)][3:] == ["1111"] * 3
    assert sent == {1: False, 2: False, 3: False, 4: True, 5: True, 6: False}
    assert "2" in metrics(tmp_path)[3]["failed"]
    steps = {int(value) for name, value in state(tmp_path, 2).items() if name.endswith(".step")}
    # Two batches in each round but the lost one, whoever had the block.
    assert steps == {10}


def test_a_block_that_others_have_left_becomes_the_mean_of_all_copies(tmp_path: Path) -> None:
    made = run(tmp_path, **SLOWING | {"num_rounds": 1, "split_gan.average_server_blocks": False})
    own, half = made.recutting, made.half
    block = [("generator", 1)]
    own.cuts.update({0: Cuts(), 1: Cuts(), 2: Cuts.parse("1000"), 3: Cuts.parse("1000")})
    template = moments_template(made.architecture, block, averaged=False)

    def copies(value: float) -> dict[str, Tensor]:
        return {name: torch.full_like(x, int(value), device="cpu") for name, x in template.items()}

    load_block_moments(half, copies(8))
    weights = {name: x.clone() for name, x in half.blocks().items() if name.startswith("generator.1.")}
    theirs = {name: x + 1 for name, x in weights.items()}
    own.coming, own.received = {2: Cuts()}, {2: copies(16)}
    own.merge(half, {0: {}, 1: {}, 2: theirs, 3: theirs}, {0: 0.25, 1: 0.25, 2: 0.25, 3: 0.25})
    assert own.begin(half) == [2]
    moments = block_moments(half, template)
    name = "generator.1.0.weight"
    # Two had left it to the server, one joins them, one keeps its own.
    assert torch.allclose(moments[f"exp_avg:{name}"], torch.tensor(32 / 3))
    assert int(moments[f"step:{name}"]) == 16
    assert torch.allclose(half.blocks()[name], weights[name] + 1 / 3)


def test_a_clock_is_the_median_of_whole_batches() -> None:
    clock = BatchClock()
    for took in (1.0, 50.0, 2.0):
        for _ in PHASES:
            clock.add({0: took, 1: 2 * took})
    clock.add({0: 1e6, 3: 1.0})
    assert clock.medians() == {0: 2.0 * len(PHASES), 1: 4.0 * len(PHASES)}


def test_a_deployment_is_measured_by_the_servers_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that answers late took long, whatever it says of its own seconds."""
    measured: list[Mapping[int, float]] = []

    def record(
        config: Config, nets: Architecture, cuts: Any, slowness: Any, seconds: Mapping[int, float], _: Any
    ) -> None:
        measured.append(seconds)

    def late(message: Message, context: Context) -> None:
        time.sleep(0.1)

    monkeypatch.setattr(recutting, "replan", record)
    app = spoiled(2, lambda kind, *_: kind == "train.split", late)
    run(tmp_path / "simulated", app, **SLOWING | {"num_rounds": 1})
    monkeypatch.setattr(RetryGrid, "is_remote", lambda _: True)
    run(tmp_path / "deployed", app, **SLOWING | {"num_rounds": 1})
    simulated, deployed = (own[2] for own in measured)
    assert all(own.keys() == set(range(4)) for own in measured)
    assert simulated < 0.1
    assert deployed >= 0.6
    assert metrics(tmp_path / "deployed")[0]["clients"]["2"]["steps"] == 2
