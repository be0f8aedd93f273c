"""How many clients train at once where nobody says it: measured once for a machine, kept for a run."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collafuse_flwr.config.config import Config
from collafuse_flwr.diffusion.stacked import TrainJob
from collafuse_flwr.diffusion.unet import ImageShape
from simulations.runners import stack_size
from simulations.runners.local import run_local
from simulations.runners.stack_size import StackSize, _fastest, fastest_stack
from tests.small_runs import small

#: The seconds of some clients' steps.
Cost = Callable[[int], float]


class OwnNetwork(nn.Module):
    def __init__(self, shape: ImageShape) -> None:
        super().__init__()
        self.layer = nn.Conv2d(shape.channels, shape.channels, 1)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        output: Tensor = self.layer(x)
        return output


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[TrainJob], list[int]]]:
    """What was measured; the largest size is always fastest."""
    seen: list[tuple[list[TrainJob], list[int]]] = []

    def fastest(jobs: list[TrainJob], sizes: list[int]) -> int:
        seen.append((jobs, sizes))
        return sizes[-1]

    monkeypatch.setattr(stack_size, "_fastest", fastest)
    return seen


def config_of(folder: Path, **changes: Any) -> Config:
    defaults = {
        "runner": "local",
        "model": "nano",
        "resources__stack_clients": 0,
        "data__cache_path": str(folder / "c"),
    }
    return small(folder / "run", **defaults | changes)


def size_of(config: Config, workers: int = 1) -> StackSize:
    Path(config.run.output).mkdir(exist_ok=True)
    return StackSize(config, 1, workers)


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (lambda clients: 1 + 0.2 * clients, 10),
        (lambda clients: 1.0 * clients, 1),
        (lambda clients: clients * (1.0 if clients == 1 else 0.95), 1),
        (lambda clients: clients * (0.5 if clients == 5 else 1.0), 5),
    ],
    ids=["larger is better", "no gain", "hardly any gain", "neither small nor large"],
)
def test_the_fastest_size_is_chosen_if_it_is_worth_it(
    monkeypatch: pytest.MonkeyPatch, cost: Cost, expected: int
) -> None:
    clock = [0.0]

    def train_all(jobs: Sequence[object]) -> None:
        clock[0] += cost(len(jobs))

    monkeypatch.setattr(stack_size, "train_all", train_all)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    jobs: Any = list(range(10))
    assert _fastest(jobs, [1, 2, 5, 10]) == expected


def test_what_is_set_is_not_measured(tmp_path: Path, measured: list[Any]) -> None:
    assert size_of(config_of(tmp_path, resources__stack_clients=7))() == 7
    assert measured == []


@pytest.mark.parametrize(
    ("changes", "workers"),
    [
        ({"strategy": "fedgan"}, 1),
        ({"dp__noise_multiplier": 1.0}, 1),
        ({}, 3),
        ({"federation__fraction_train": 0.3}, 1),
    ],
    ids=["GAN", "DP-SGD", "a worker for each client", "one client a round"],
)
def test_clients_who_cannot_train_at_once_are_not_measured(
    tmp_path: Path, measured: list[Any], changes: dict[str, Any], workers: int
) -> None:
    changes = {"model": "tiny"} | changes if "strategy" in changes else changes
    assert size_of(config_of(tmp_path, **changes), workers)() == 1
    assert measured == []
    assert not (tmp_path / "run/stack.json").exists()


def test_a_run_keeps_what_it_began_with(
    tmp_path: Path, measured: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path)
    size = size_of(config)
    assert [size(), size()] == [3, 3]
    assert capsys.readouterr().out.count("3 clients train at once") == 1
    assert json.loads((tmp_path / "run/stack.json").read_text()) == {"clients": 3}
    shutil.rmtree(tmp_path / "c")
    (tmp_path / "run/stack.json").write_text('{"clients": 2}')
    assert size_of(config)() == 2
    assert len(measured) == 1


def test_a_machine_measures_equal_networks_and_batches_once(tmp_path: Path, measured: list[Any]) -> None:
    assert size_of(config_of(tmp_path))() == 3
    assert fastest_stack(config_of(tmp_path, seed=3, num_rounds=4), 3) == 3
    assert len(measured) == 1
    for changes in ({"model": "tiny"}, {"client__batch_size": 4}, {"resources__client_threads": 2}):
        fastest_stack(config_of(tmp_path, **changes), 3)
    fastest_stack(config_of(tmp_path), 2)
    assert [sizes for _, sizes in measured] == [[1, 2, 3]] * 4 + [[1, 2]]


def test_what_is_measured_is_the_training_of_the_run(tmp_path: Path, measured: list[Any]) -> None:
    size_of(config_of(tmp_path))()
    ((jobs, _),) = measured
    assert [len(jobs), jobs[0].batch_size, len(jobs[0].source)] == [3, 8, 8]
    assert {job.stack_key() for job in jobs} != {None}
    first, second = (torch.cat([p.detach().flatten() for p in job.state.parameters]) for job in jobs[:2])
    assert not torch.equal(first, second)


def test_networks_that_no_stack_takes_are_not_measured(tmp_path: Path, measured: list[Any]) -> None:
    config = config_of(tmp_path, model=f"{__name__}:OwnNetwork")
    assert fastest_stack(config, 3) == 1
    assert measured == []


def test_a_cache_that_cannot_be_written_costs_the_measurement_alone(tmp_path: Path, measured: list[Any]) -> None:
    (tmp_path / "c").write_text("a file")
    config = config_of(tmp_path)
    assert [fastest_stack(config, 3), fastest_stack(config, 3)] == [3, 3]
    assert len(measured) == 2


def test_a_run_measures_and_trains(tmp_path: Path) -> None:
    config = config_of(tmp_path, num_rounds=1)
    run_local(config)
    assert json.loads((tmp_path / "run/stack.json").read_text())["clients"] in {1, 2, 3}
    assert (tmp_path / "run/summary.json").is_file()
