"""The bench of the split GAN's clients in one call."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from collafuse_flwr.gan.networks import build_architecture
from simulations.bench import stacked_gan as stacked
from tests.commands import refused


@pytest.mark.parametrize(("net", "index"), [("generator", 0), ("generator", 4), ("discriminator", 0)])
def test_both_ways_compute_the_same(net: str, index: int) -> None:
    one_by_one, at_once = stacked.passes(build_architecture(1, 8, 10, 4), net, index, 6, 3)
    expected = one_by_one()
    assert torch.allclose(at_once(), expected, atol=1e-5)
    assert not torch.allclose(expected[0], expected[1], atol=1e-2)


def test_the_command_measures_shows_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "stacked.json"
    # Of every block two turns, of which the first does not count; one after the other takes four times as long.
    ticks = itertools.accumulate([0, 1, 0, 1, 0, 8, 0, 2] * 4)
    monkeypatch.setattr(stacked, "time", SimpleNamespace(process_time=lambda: float(next(ticks))))
    arguments = ["rounds=1", "width=2", "size=8", "batch=4", "clients=2", f"output={output}"]
    assert stacked.main(arguments) == 0
    assert "4 met" in capsys.readouterr().out
    rows = json.loads(output.read_text())["rows"]
    assert [row["block"] for row in rows] == ["generator 0", "generator 4", "discriminator 0", "discriminator 4", "all"]
    assert {row["ratio"] for row in rows} == {4.0}
    assert rows[-1]["one_by_one"] == 4 * rows[0]["one_by_one"] == 4 * 8e3 / 2


def test_a_mistake_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert stacked.main(["clients=0"]) == 2
    assert "`clients` = 0 is not allowed: a whole number >= 1" in refused(capsys)
