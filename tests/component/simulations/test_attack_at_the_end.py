"""`attack=true`: a run is attacked at its end as the command would attack it, or is refused before it starts."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.federated import federation_data
from simulations import run, runners
from simulations.attack.run import check_attack, default_request
from simulations.sweep import job
from simulations.sweep.grid import SweepRun, fingerprint
from simulations.sweep.job import JobResult, run_job
from tests.component.simulations.report.fakes import fake
from tests.small_runs import small

QUICK = {"runner": "local", "model": "nano", "evaluation.tstr": "none", "data.max_images": 60, "attack": True}
SMALL = {"num_supernodes": 2, "num_rounds": 1}


def test_the_run_is_followed_by_its_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr("simulations.attack.run.default_request", lambda path: default_request(path, shadow_steps=3))
    run.run(small(folder, **QUICK, **SMALL))
    results = json.loads((folder / "attacks" / "attacks.json").read_text())
    assert (results["run"], results["shadow_model"], results["shadow_steps"]) == (str(folder), "nano", 3)
    assert [row["client"] for row in results["clients"]] == [0, 1]
    assert all({"reid", "bits_denoised", "membership_backbone_loss_auc"} <= row.keys() for row in results["clients"])
    assert {path.name for path in (folder / "attacks").iterdir()} == {
        *("attacks.json", "leakage.png", "reconstructions.png"),
    }


def test_it_is_the_same_run_with_or_without() -> None:
    config = small(Path("run"))
    assert fingerprint(config) == fingerprint(replace(config, run=replace(config.run, attack=True)))


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"image_size": 7}, r"the attacker's network does not fit \(`image_size` = 7 is not allowed: a multiple of 2"),
        ({"num_supernodes": 1, "data.max_images": 4}, "false where 1 image is held out: the attacker needs 2"),
    ],
)
def test_where_it_cannot_work_it_is_refused_before_the_run(tmp_path: Path, settings: dict[str, int], rule: str) -> None:
    config = small(tmp_path, **settings)
    data = federation_data(config.data, config.run.num_supernodes, config.run.seed)
    with pytest.raises(SettingError, match=rf"^`attack` = True is not allowed: .*{rule}"):
        check_attack(config, data)


def test_an_app_started_by_hand_prints_the_command(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^`attack` = True is not allowed: .*python -m simulations.attack run="):
        runners.run(small(tmp_path / "run", **QUICK, **SMALL))
    assert not (tmp_path / "run").exists()


ATTACK = """
import pathlib, sys
run = pathlib.Path(sys.argv[1].removeprefix("run=").strip("'"))
assert not (run / "attacks").exists()
(run / "attacks").mkdir()
(run / "attacks" / "attacks.json").write_text('{"clients": []}')
"""


def test_a_sweep_attacks_what_was_finished_without_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = fake(tmp_path / "runs")
    (tmp_path / "attack.py").write_text(ATTACK)
    monkeypatch.setattr(job, "ATTACK", (sys.executable, str(tmp_path / "attack.py")))
    monkeypatch.setattr(job, "COMMAND", (sys.executable, "-c", "raise SystemExit('not again')"))
    attacked = replace(done.config, run=replace(done.config.run, attack=True))

    def state(cell: SweepRun) -> tuple[str, int | None]:
        result: JobResult = run_job(cell, tmp_path / "runs")
        return result.state, result.status

    # What an attack that was cut off has left is in nobody's way.
    write_json(done.folder / "attacks" / "half.json", {})
    assert state(SweepRun(1, done.folder.name, done.config)) == ("done before", None)
    assert state(SweepRun(1, done.folder.name, attacked)) == ("done", 0)
    assert state(SweepRun(1, done.folder.name, attacked)) == ("done before", None)
