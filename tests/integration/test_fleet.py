"""A small fleet of SuperNodes in this process, and a real SuperLink."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations.bench import fleet

#: Of 8 images of a client, those that it keeps to compare with.
HELD_OUT = 2


def test_every_node_introduces_itself_and_uploads_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "fleet.json"
    assert fleet.main(["nodes=8", "workers=2", "patience=600", f"output={output}"]) == 0
    assert "8 SuperNodes, 8 uploads of 48 images in all" in capsys.readouterr().out
    (row,) = json.loads(output.read_text())["rows"]
    assert (row["uploads"], row["images"]) == (8, 8 * (8 - HELD_OUT))
    # int8 of 8 x 8, a scale and a label.
    assert row["pool bytes"] == row["images"] * (64 + 4 + 8)
    for request, times in {"register-node": 1, "get-fab": 1, "push-messages": 2}.items():
        assert row["requests"][request] == times * 8
    assert all(own["MB"] > 0 and own["cpu seconds"] > 0 for own in row["programs"].values())


def test_a_mistake_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert fleet.main(["nodes=0"]) == 2
    assert "`nodes` = 0 is not allowed: a whole number >= 1" in capsys.readouterr().err
