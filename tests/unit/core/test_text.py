from __future__ import annotations

import pytest

from collafuse_flwr.core.text import LONGEST_REASON, last_line, number_of


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("Traceback (most recent call last):\n  File x\nValueError: no\n\n", "ValueError: no"),
        ("one line", "one line"),
        ("", "no reason given"),
        (" \n ", "no reason given"),
        (None, "no reason given"),
        ("\x1b[2Jred\u202e", "?[2Jred?"),
        ("one\rother", "other"),
        ("x" * 600, "x" * LONGEST_REASON + " ..."),
    ],
)
def test_of_a_traceback_the_last_line_is_shown(reason: str | None, shown: str) -> None:
    assert last_line(reason) == shown


@pytest.mark.parametrize(("number", "words"), [(0, "0 rounds"), (1, "1 round"), (3, "3 rounds")])
def test_a_noun_follows_its_number(number: int, words: str) -> None:
    assert number_of(number, "round") == words
