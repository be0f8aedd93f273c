"""The bench of fewer sampling steps: equal steps are equal, and what a turn makes is what the run's networks make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations import runners
from simulations.bench import sampling
from tests.small_runs import small


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: three clients, T = 20."""
    folder = tmp_path_factory.mktemp("run") / "run"
    runners.run(small(folder, model="nano", num_rounds=1, runner="local"))
    return folder


def test_the_command_measures_shows_and_writes(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "sampling.json"
    arguments = [f"run={finished}", "steps=12,9+3,20", "num_samples=40", "rounds=1", f"output={output}"]
    assert sampling.main(arguments) == 0
    assert "times as fast" in capsys.readouterr().out
    first, split, longer = json.loads(output.read_text())["rows"]
    assert first["fd_ratio"] == dict.fromkeys(("median", "min", "max"), 1.0)
    assert first["images_per_second_ratio"]["median"] == 1.0
    assert split["steps"] == "9+3"
    # The same noise in all: what differs are the steps.
    assert len({row["fd"] for row in (first, split, longer)}) == 3


def test_steps_that_are_the_cuts_share_are_the_same(finished: Path) -> None:
    """At c = 0.3 ten steps are seven above the cut and three below it."""
    shared, split = sampling.measure(finished, ["10", "7+3"], 40, 1)
    assert split["fd_ratio"]["median"] == 1.0
    assert shared["fd"] == split["fd"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("steps=0", "`steps` = '0' is not allowed: numbers above 0"),
        ("steps=8+4+2", "`steps` = '8+4+2' is not allowed: numbers above 0"),
        ("rounds=0", "`rounds` = 0 is not allowed: a whole number >= 1"),
        ("run=", "`run` = '' is not allowed: the folder of a finished run"),
        ("step=8", "`step` = 8 is not allowed: no such setting"),
    ],
)
def test_a_mistake_is_refused_in_one_line(
    finished: Path, wrong: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"run={finished}", wrong] if not wrong.startswith("run=") else [wrong]
    assert sampling.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
