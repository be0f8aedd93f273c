"""The example of an attack, by its path and as an installed package, down to the comparison of runs."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from examples.attack.brightness import ATTACK
from simulations import runners
from simulations.attack import __main__ as attack
from simulations.attack.spec import AttackSpec
from simulations.report.page import write_report
from tests.commands import refused
from tests.small_runs import small

PATH = "examples.attack.brightness:ATTACK"
HERE = "tests.examples.test_attack_plugin"
QUICK = {"runner": "local", "model": "nano", "evaluation.tstr": "none", "num_supernodes": 2, "data.max_images": 60}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runners.run(small(tmp_path_factory.mktemp("run"), **QUICK, num_rounds=1)).folder


def call(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["attack", *arguments])
        return attack.main()


def test_it_has_its_column_its_settings_and_its_place_in_the_report(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (f"run={finished}", "shadow_steps=2", "inversions=0")
    assert call(*arguments, f"attacks=[{PATH}]", "brightness_images=20") == 0
    assert "light" in capsys.readouterr().out
    results = json.loads((finished / "attacks" / "attacks.json").read_text())
    assert results["brightness_images"] == 20
    assert [column["key"] for column in results["columns"]] == ["brightness"]
    assert all(row["brightness"] > 0.5 > row["brightness_chance"] == 0 for row in results["clients"])
    # Where it is not installed the report has it from the file.
    assert "brightness" in write_report([finished], tmp_path).read_text()


def test_an_installed_package_brings_its_attack(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    point = EntryPoint("brightness", PATH, "collafuse_flwr.attacks")
    monkeypatch.setattr(
        "collafuse_flwr.core.plugins.entry_points", lambda group: [point] if group == point.group else []
    )
    assert call("--help") == 0
    assert "brightness_images=500: images of a client" in capsys.readouterr().out
    assert call(f"run={finished}", f"output={tmp_path}", "brightness_images=1") == 2
    assert refused(capsys).endswith("`brightness_images` = 1 is not allowed: a whole number >= 2")


def wrong(*_: object) -> None:
    pass


NOT_ONE = 3
NO_OUTCOME = AttackSpec("wrong", "", "", (), wrong)  # type: ignore[arg-type]
TWICE = AttackSpec("disclosure", "", "", (), ATTACK.run)
SAME_NUMBER = AttackSpec("other", "", "", ATTACK.columns, ATTACK.run)


@pytest.mark.parametrize(
    ("attacks", "message"),
    [
        (
            "no.module:ATTACK",
            "is not allowed: package.module:name of something that can be imported (No module",
        ),
        (f"{HERE}:NOT_ONE", "is not allowed: an AttackSpec, not int"),
        (f"{HERE}:NO_OUTCOME", "`attacks` = 'wrong' is not allowed: one that returns an Outcome, not NoneType"),
        (
            f"{HERE}:TWICE",
            "an attack whose name no other has, unlike 'disclosure'",
        ),
        (f"[{PATH},{HERE}:SAME_NUMBER]", "an attack whose number no other has, unlike 'brightness'"),
        ("3", "`attacks` = 3 is not allowed: a list of package.module:ATTACK"),
    ],
)
def test_a_mistake_is_one_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], attacks: str, message: str
) -> None:
    arguments = (f"run={finished}", f"output={tmp_path}", "shadow_steps=1", "inversions=0")
    assert call(*arguments, f"attacks={attacks}") == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
