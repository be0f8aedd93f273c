"""The bench of clients in a stack beside the same clients one after another."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from simulations.bench import stacked
from tests.commands import refused


def test_the_command_measures_shows_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "stacked.json"
    # Two turns, of which the first does not count; in the second the stack takes 4 s, the others 12 s.
    ticks = itertools.accumulate([0, 1, 0, 1, 0, 4, 0, 12])
    monkeypatch.setattr(stacked, "time", SimpleNamespace(process_time=lambda: float(next(ticks))))
    assert stacked.main(["models=nano", "sizes=8", "clients=2", "steps=2", "rounds=1", f"output={output}"]) == 0
    assert "times as fast" in capsys.readouterr().out
    (row,) = json.loads(output.read_text())["rows"]
    assert row["ratio"] == dict.fromkeys(("median", "min", "max"), 3.0)
    assert (row["stacked"], row["one_by_one"]) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("models=nanno", "`model` = 'nanno' is not allowed: one of nano"),
        ("sizes=9", "`image_size` = 9 is not allowed: a multiple of 2"),
        ("clients=0,4", "`clients` = '0,4' is not allowed: whole numbers above 0"),
        ("steps=0", "`steps` = 0 is not allowed: a whole number >= 1"),
        ("step=8", "`step` = 8 is not allowed: no such setting"),
    ],
)
def test_a_mistake_is_refused_in_one_line(wrong: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert stacked.main([wrong]) == 2
    assert message in refused(capsys)
