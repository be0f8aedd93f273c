"""What is left of a run, from what is planned."""

from __future__ import annotations

import pytest

from collafuse_flwr.core.time_left import EXPECTED, TimeLeft, expected_work

#: Two rounds for the backbone alone, then clients train; samples, and their measuring, come last.
PLANNED = {
    "clients": [0.0, 0.0, 100.0, 0.0],
    "backbone": [50.0, 50.0, 50.0, 0.0],
    "sampling": [0.0, 0.0, 400.0, 0.0],
    "measuring": [0.0, 0.0, 0.0, 500.0],
}


def test_nothing_is_said_before_anything_is_done() -> None:
    assert TimeLeft(PLANNED).left(1, {}) is None


def test_what_has_not_begun_is_expected_at_the_pace_of_what_has() -> None:
    """A unit of the backbone takes 0.2 s, so one of a client three times that, and one of a classifier a fifth."""
    left = TimeLeft(PLANNED)
    left.add("backbone", 1, 10.0)
    measuring = 500 * 0.2 * EXPECTED["measuring"]
    assert left.left(2, {}) == pytest.approx(2 * 10 + 100 * 3 * 0.2 + 400 * 0.2 + measuring)
    assert left.left(2, {"backbone": 0.5}) == pytest.approx(1.5 * 10 + 100 * 3 * 0.2 + 400 * 0.2 + measuring)


def test_what_has_been_done_goes_by_its_own_pace() -> None:
    left = TimeLeft(PLANNED)
    for part, round_, seconds in (("backbone", 1, 10.0), ("backbone", 2, 14.0), ("clients", 3, 30.0)):
        left.add(part, round_, seconds)
    pace = (10 + 14 + 30) / (50 + 50 + 3 * 100)
    rest = 400 * pace + 500 * pace * EXPECTED["measuring"]
    assert left.left(3, {"clients": 1.0}) == pytest.approx(12 + rest)


def test_seconds_in_which_a_part_had_nothing_to_do_are_no_pace() -> None:
    left = TimeLeft(PLANNED)
    left.add("clients", 1, 5.0)
    assert left.left(1, {}) is None
    left.add("backbone", 1, 10.0)
    assert left.left(4, {}) == pytest.approx(500 * 0.2 * EXPECTED["measuring"])


def test_rounds_are_weighed_by_what_each_part_should_take() -> None:
    assert expected_work(PLANNED) == pytest.approx([50, 50, 3 * 100 + 50 + 400, 500 * EXPECTED["measuring"]])
