"""What the benchmark of adaptive cuts computes from the rounds of a run."""

from __future__ import annotations

from typing import Any

import pytest

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import UserError
from collafuse_flwr.runs.history import RoundRecord
from simulations.bench import adaptive_cut
from tests.commands import refused

CONFIG = Config.from_flat(adaptive_cut.SETTINGS)


def some_rounds(losses: list[float]) -> list[RoundRecord]:
    """Client 2, of 10^9 operations a second, takes two seconds a round."""
    rows = []
    for number, loss in enumerate(losses, 1):
        row = RoundRecord(number, cuts={"2": 20})
        row.clients, row.evaluation = {"2": {"flops": 2e9}}, {"2": {"held_out_loss": loss}}
        rows.append(row)
    return rows


def test_a_reward_in_closed_form() -> None:
    """20 of 50 steps, whose loss fell by 0.2 over two rounds of two seconds and two messages of half a second each."""
    worth = adaptive_cut.worth(CONFIG, some_rounds([9.0, 0.9, 0.8, 0.7]), 2, after=1)
    assert worth.cut == 20
    assert worth.cost == pytest.approx(6.0)
    assert worth.gain == pytest.approx(0.4 * 0.2)
    assert worth.reward == pytest.approx(0.08 / 6)


def test_an_upload_after_the_exploration_is_none_that_the_sum_knows() -> None:
    rows = some_rounds([0.9, 0.8, 0.7])
    rows[2].uploads = ["2"]
    with pytest.raises(UserError, match="client 2 uploads in round 3"):
        adaptive_cut.worth(CONFIG, rows, 2, after=1)


def test_each_device_is_held_against_its_own_best_fixed_cut() -> None:
    """A fast device, whose rewards are a hundred times as large, does not hide a slow one."""

    def rows(*rewards: float) -> list[dict[str, Any]]:
        return [{"cut": 20, "reward": reward} for reward in rewards]

    measured = [{"explored_rounds": 3, "adaptive": rows(100, 0.5), "fixed": {10: rows(50, 1), 20: rows(100, 0.5)}}]
    by_device = adaptive_cut.compared(measured, ["9:1", "1:1"])
    assert [row["share"] for row in by_device.values()] == [1.0, 0.5]
    assert adaptive_cut.markdown(by_device).splitlines()[-1] == "| 1:1 | 1000.000 | 500.000 | 500.000 | 0.50 | 20 |"


def test_the_exploration_is_the_warm_up_and_the_pulls() -> None:
    assert adaptive_cut.explored_rounds(CONFIG) == 14


def test_a_mistake_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert adaptive_cut.main(["seeds=one"]) == 2
    assert "`seeds` = 'one' is not allowed" in refused(capsys)
