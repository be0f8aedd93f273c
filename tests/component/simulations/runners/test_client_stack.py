"""A federation whose clients train as one stack is the one whose clients train one by one, within rounding."""

from __future__ import annotations

import inspect
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from safetensors.torch import load_file

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.config.config import Config
from collafuse_flwr.config.run import MAX_STACK
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.diffusion import stacked
from collafuse_flwr.diffusion.stacked import TrainJob
from collafuse_flwr.diffusion.train import TrainResult
from simulations.runners.app_loading import begin_run
from simulations.runners.client_stack import ClientStack
from simulations.runners.local import run_local
from simulations.runners.local_grid import LocalGrid
from tests.small_runs import bytes_of, connect, metrics, run_strategy, small, spoiled

#: Adam makes a step of its rate along gradients that are nothing but rounding, and sampling carries that on.
TOLERANCE: dict[str, Any] = {"atol": 5e-3, "rtol": 1e-2}


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The optimiser steps of the clients in each stack that was trained."""
    seen: list[list[int]] = []
    original = stacked.train_stacked

    def train_stacked(jobs: Sequence[TrainJob]) -> list[TrainResult]:
        results = original(jobs)
        seen.append([job.num_steps for job in jobs])
        return results

    monkeypatch.setattr(stacked, "train_stacked", train_stacked)
    return seen


def grid_of(config: Config, app: Any = client_app, clients: int = 3) -> LocalGrid:
    settings = config.to_flower()
    return LocalGrid(app, begin_run(), settings, config.run.num_supernodes, stack_size=lambda: clients)


def settings_of(folder: Path, **changes: Any) -> Config:
    return small(folder, runner="local", model="nano", **{"train__local_epochs": 2.0} | changes)


def assert_close(one: Path, other: Path) -> None:
    """Networks, samples and numbers of two runs."""
    files = sorted(path.relative_to(other) for path in other.rglob("*.safetensors"))
    assert files == sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert any("clients" in str(path) for path in files)
    for path in files:
        own, expected = load_file(one / path), load_file(other / path)
        assert own.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(own[name].float(), value.float(), **TOLERANCE, msg=f"{path} {name}")
    assert_close_numbers(metrics(one), metrics(other))


def assert_close_numbers(one: Any, other: Any) -> None:
    if isinstance(other, dict):
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert_close_numbers(one[name], value)
    elif isinstance(other, list):
        for own, value in zip(one, other, strict=True):
            assert_close_numbers(own, value)
    elif isinstance(other, float) and math.isfinite(other):
        assert one == pytest.approx(other, rel=1e-2, abs=1e-2)
    else:
        assert str(one) == str(other)


RUNS: dict[str, dict[str, Any]] = {
    "of different cuts, starting with the backbone": {
        "cut__client_ratios": [0.3, 0.5, 1.0],
        "client__init_from": "backbone",
        "client__start_round": 1,
    },
    "mirrored and dropped": {"train__random_hflip": True, "train__cfg_dropout": 0.3, "sampling__guidance_scale": 2.0},
    "fedprox": {"strategy": "fedprox", "fedprox__proximal_mu": 1.0},
    "hybrid": {"strategy": "hybrid", "partition": "iid"},
}


@pytest.mark.parametrize("case", RUNS.values(), ids=RUNS.keys())
def test_a_run_in_stacks_is_the_run_one_by_one(case: dict[str, Any], tmp_path: Path, stacks: list[list[int]]) -> None:
    one, other = (settings_of(tmp_path / name, **case) for name in ("stacked", "single"))
    run_strategy(one, grid_of(one))
    assert [len(steps) for steps in stacks if len(steps) > 1]
    run_strategy(other, connect(other))
    assert_close(tmp_path / "stacked", tmp_path / "single")


def test_clients_with_fewer_images_are_done_earlier(tmp_path: Path, stacks: list[list[int]]) -> None:
    config = settings_of(tmp_path, num_rounds=1)
    run_strategy(config, grid_of(config))
    (steps,) = stacks
    assert len(steps) == 3
    assert len(set(steps)) > 1


def test_a_client_that_fails_leaves_the_others_in_their_stack(tmp_path: Path, stacks: list[list[int]]) -> None:
    def fail(message: Message, context: Context) -> Message | None:
        raise SystemExit(3)

    config = settings_of(tmp_path, num_rounds=1)
    strategy = run_strategy(config, grid_of(config, spoiled(1, fail)))
    (steps,) = stacks
    assert len(steps) == 2
    (row,) = strategy.history.rounds
    assert [len(row.failed), len(row.clients)] == [1, 2]


def test_differentially_private_training_is_as_ever(tmp_path: Path, stacks: list[list[int]]) -> None:
    one, other = (settings_of(tmp_path / name, num_rounds=1, dp__noise_multiplier=1.0) for name in ("one", "other"))
    run_strategy(one, grid_of(one))
    run_strategy(other, connect(other))
    assert stacks == []
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "other")


def test_the_seconds_of_all_clients_are_no_more_than_those_of_the_round(tmp_path: Path) -> None:
    config = settings_of(tmp_path, num_rounds=1)
    began = time.perf_counter()
    strategy = run_strategy(config, grid_of(config))
    spent = time.perf_counter() - began
    seconds = [own["seconds"] for own in strategy.history.rounds[0].clients.values()]
    assert all(own > 0 for own in seconds)
    assert sum(seconds) < spent


def test_as_many_clients_as_are_allowed_can_wait_within_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depths: list[int] = []
    original = ClientStack._train

    def train(stack: ClientStack, job: TrainJob) -> TrainResult:
        depths.append(len(inspect.stack(0)))
        return original(stack, job)

    monkeypatch.setattr(ClientStack, "_train", train)
    config = settings_of(tmp_path, num_rounds=1)
    run_strategy(config, grid_of(config))
    first, second, third = depths
    assert third - second == second - first
    # Beside them a network's own calls, and those that lead to the grid.
    assert (second - first) * MAX_STACK < sys.getrecursionlimit() - 250


def test_a_group_has_each_node_once_and_training_alone(tmp_path: Path) -> None:
    handled: list[tuple[str, int]] = []
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        handled.append((message.metadata.message_type, message.metadata.dst_node_id))
        return Message(RecordDict(), reply_to=message)

    app.train()(answer)
    app.query()(answer)
    grid = LocalGrid(app, begin_run(), {}, 3, stack_size=lambda: 2)
    one, two, three = grid.get_node_ids()
    sent = [(one, "query"), (one, "train"), (two, "query"), (one, "train"), (two, "train"), (three, "train")]
    ids = grid.push_messages([Message(RecordDict(), node, kind) for node, kind in sent])
    groups = []
    while replies := grid.pull_messages(ids):
        groups.append([ids.index(reply.metadata.reply_to_message_id) for reply in replies])
    assert groups == [[0], [1, 4], [2], [3, 5]]
    assert [sent[number][::-1] for group in groups for number in group] == handled


@pytest.mark.parametrize("changes", [{"clients": -1}, {"clients": MAX_STACK + 1}, {"clients": 2, "runner": "flwr"}])
def test_a_stack_that_cannot_be_is_refused_in_one_line(changes: dict[str, Any], tmp_path: Path) -> None:
    given = {"runner": "local", "resources.stack_clients": changes.pop("clients")} | changes
    with pytest.raises(SettingError, match=r"^`resources.stack_clients` = -?\d+ .*[^\n]$"):
        Config.from_flat(given)


def test_the_runner_stacks_by_the_setting(tmp_path: Path, stacks: list[list[int]]) -> None:
    config = settings_of(tmp_path, num_rounds=1, resources__stack_clients=2)
    run_local(config)
    assert [len(steps) for steps in stacks] == [2]
