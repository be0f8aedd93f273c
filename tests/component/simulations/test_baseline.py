"""`baseline=local`: beside a run, every client alone with as much training of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.runs.run_dir import read_config
from simulations import run, runners
from simulations.baseline import alone, alone_folder
from simulations.report.load_runs import collect
from simulations.runners.result import RunResult
from simulations.sweep.sweep import main
from tests.commands import refused
from tests.small_runs import SMALL, small

real = runners.run
QUICK: dict[str, Any] = {"runner": "local", "model": "nano", "data.max_images": 60, "baseline": "local"}


def summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


@pytest.mark.parametrize(
    "settings",
    [
        {"cut_ratio": 0.7, "train.local_epochs": 4.0, "evaluation.tstr": "clients"},
        # Clients that start late have their work in fewer rounds.
        {"cut.client_ratios": [0.2, 0.4, 0.9], "train.local_epochs": 16.0, "client.init_from": "backbone"},
        {"strategy": "fedavg"},
        {"strategy": "fedavg", "train.match": "client_flops", "cut_ratio": 0.5, "train.local_epochs": 4.0},
    ],
    ids=["a cut", "mixed cuts", "fedavg", "fedavg with CollaFuse's work"],
)
def test_a_client_alone_has_as_much_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    run.run(small(folder, **QUICK, **settings))
    own, beside = summary(folder), summary(alone_folder(folder))
    assert read_config(alone_folder(folder)).run.strategy == "local"
    work = [sum(client["image_updates"] for client in run["clients"]) for run in (own, beside)]
    # Whole batches of 8, a client and round.
    assert abs(work[0] - work[1]) <= 8 * SMALL["num_supernodes"] * SMALL["num_rounds"]
    assert beside["server"]["image_updates"] == 0
    alone_fd = {client["client"]: client["fd"] for client in beside["clients"]}
    assert {client["client"]: client["fd_alone"] for client in own["clients"]} == alone_fd
    better = sum(client["fd"] < client["fd_alone"] for client in own["clients"])
    assert own["pooled"]["clients_better_than_alone"] == better
    assert f"{better} of 3 clients have a lower FD than alone: from fewer than 10 clients" in capsys.readouterr().out
    # A report of both has the baseline as a row.
    assert {one.config.run.strategy for one in collect([tmp_path])} == {read_config(folder).run.strategy, "local"}


def test_a_run_that_goes_on_keeps_its_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    config = small(folder, **QUICK)
    run.run(config)
    before = summary(folder)
    started: list[str] = []

    def counted(given: Config) -> RunResult:
        started.append(given.run.strategy)
        return real(given)

    monkeypatch.setattr(runners, "run", counted)
    run.run(small(folder, **QUICK, resume=True))
    assert started == ["collafuse"]
    assert summary(folder)["pooled"]["fd_ratio_to_alone"] == before["pooled"]["fd_ratio_to_alone"]


def test_the_baseline_keeps_what_both_read() -> None:
    config = small(Path("run"), start_from="", cut_ratio=0.4, data__conditioning="none")
    beside = alone(config, [{"cut_step": 8, "num_images": images} for images in (3, 5, 7)])
    assert (beside.cut.cut_ratio, beside.train.match) == (0.4, "client_flops")
    assert beside.data == config.data
    assert beside.train.local_epochs == config.train.local_epochs


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"strategy": "local"}, "none when `strategy` is local"),
        ({"strategy": "centralized"}, "none when `strategy` is centralized"),
        ({"strategy": "fedgan"}, "none when `strategy` is fedgan"),
        ({"cut_ratio": 0.0}, "none where no client trains"),
    ],
)
def test_where_it_says_nothing_it_is_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingError, match=rf"^`baseline` = 'local' is not allowed: {reason}"):
        Config.from_flat({"baseline": "local", **settings})


def test_a_folder_beside_that_is_taken_costs_no_training(tmp_path: Path) -> None:
    (tmp_path / "run-alone").mkdir()
    (tmp_path / "run-alone" / "notes.txt").write_text("mine")
    with pytest.raises(SettingError, match="one beside which run-alone is free"):
        run.run(small(tmp_path / "run", **QUICK))
    assert not (tmp_path / "run").exists()


def test_another_run_in_its_place_is_no_baseline(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run.run(small(folder, **QUICK | {"baseline": "none"}))
    run.run(small(alone_folder(folder), **QUICK | {"baseline": "none"}, strategy="local", seed=5))
    with pytest.raises(SettingError, match="run-alone is free, not a run of other settings"):
        run.run(small(folder, **QUICK, resume=True))


def test_a_sweep_has_it_as_a_strategy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep", "baseline=local", "cut_ratio=0.2,0.4", f"output={tmp_path}"])
    assert main() == 2
    assert "`baseline` = 'local' is not allowed: none in a sweep, whose report" in refused(capsys)
