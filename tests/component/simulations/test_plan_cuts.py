"""`python -m simulations.plan_cuts`: cuts for devices, and how long they should take."""

from __future__ import annotations

import sys

import pytest
from rich.console import Console

from collafuse_flwr.config.config import Config
from simulations import plan_cuts as plan
from tests.commands import refused

SECONDS = ("fleet=paper7", "cut.policy=by_device")


def call(*arguments: str) -> int:
    """The command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["plan", *arguments])
        return plan.main()


def rows(printed: str) -> list[list[str]]:
    """The cells of a table's lines, which begin with the client's number."""
    return [cells for line in printed.splitlines() if (cells := line.split()) and cells[0].isdigit()]


def test_the_cuts_of_a_gan(capsys: pytest.CaptureFixture[str]) -> None:
    flat = {
        "strategy": "huscf_gan",
        "devices.profiles": ["1", "3", "1"],
        "num_supernodes": 3,
        "gan.width": 8,
        "split_gan.min_cut": "0010",
    }
    plan.plan(Config.from_flat(flat), Console(width=100, highlight=False))
    printed = capsys.readouterr().out
    table = rows(printed)
    assert [row[:2] for row in table] == [["0", "1"], ["1", "3"], ["2", "1"]]
    assert table[0][2:] == table[2][2:]
    assert all(row[2][2] == "1" for row in table)
    assert "An iteration should take" in printed
    assert "is the slowest" in printed


def test_the_rounds_of_diffusion(capsys: pytest.CaptureFixture[str]) -> None:
    common = (
        "devices.profiles=['1:1','2:1']",
        "num_supernodes=2",
        "data.max_images=100",
        "model=nano",
        "partition=iid",
        "num_rounds=2",
    )
    assert call(*common, "cut_ratio=0.5", "client.init_from=random") == 0
    slow, fast = rows(capsys.readouterr().out)
    assert slow[1:4] == ["1:1", "40", "50"]
    assert float(slow[-2]) / float(fast[-2]) == pytest.approx(2, rel=0.02)


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, parts in (
        ([], ("`devices.profiles` = ", "paper7")),
        (["devices.profiles=[1,9]", "num_supernodes=2"], ("`devices.profiles` = ", "9", "1, 2, 3")),
        ([*SECONDS, "cut.target=1e-6", "model=nano"], ("`cut.target` = 1e-06 s", "client 0 (device 1)")),
        ([*SECONDS, "cut.target=0"], ("`cut.target` = 0", "above 0")),
    ):
        assert call(*arguments) == 2
        message = refused(capsys)
        assert all(part in message for part in parts)
