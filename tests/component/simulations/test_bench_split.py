"""The bench of the split GAN beside an undivided loop."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from simulations.bench import split_gan as split
from tests.commands import refused


def test_the_command_measures_shows_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "split.json"
    # Two turns, of which the first does not count; in the second the loop takes 8 s, float32 16 s and bfloat16 4 s.
    ticks = itertools.accumulate([0, 1, 0, 1, 0, 1, 0, 8, 0, 16, 0, 4])
    monkeypatch.setattr(split, "time", SimpleNamespace(process_time=lambda: float(next(ticks))))
    assert split.main(["rounds=1", "width=2", "size=8", "batch=4", f"output={output}"]) == 0
    assert "bfloat16" in capsys.readouterr().out
    rows = json.loads(output.read_text())["rows"]
    assert [row["arithmetic"] for row in rows] == ["float32", "bfloat16"]
    assert [row["ratio"] for row in rows] == [dict.fromkeys(("median", "min", "max"), each) for each in (0.5, 2.0)]
    assert [row["cpu_seconds"] * len(split.CUTS) for row in rows] == [16, 4]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("size=10", "`image_size` = 10 is not allowed: a multiple of 4 pixels"),
        ("batch=1", "`batch` = 1 is not allowed: a whole number >= 2"),
        ("widht=8", "`widht` = 8 is not allowed: no such setting"),
    ],
)
def test_a_mistake_is_refused_in_one_line(wrong: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert split.main([wrong]) == 2
    assert message in refused(capsys)
