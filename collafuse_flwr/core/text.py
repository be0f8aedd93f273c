"""Text of others, as a terminal or a log may show it."""

from __future__ import annotations

#: Characters of a reason that are kept.
LONGEST_REASON = 500


def last_line(reason: str | None) -> str:
    """The last line of a traceback, or the whole of a one-line reason: what to show of a client's error.

    It may be of anybody: what could move a terminal's cursor, colour it or turn its text around is shown as "?", and
    what is too long is cut off.
    """
    lines = [line.strip() for line in (reason or "").strip().splitlines() if line.strip()]
    if not lines:
        return "no reason given"
    line = lines[-1] if len(lines[-1]) <= LONGEST_REASON else f"{lines[-1][:LONGEST_REASON]} ..."
    return "".join(char if char.isprintable() else "?" for char in line)


def number_of(number: int, noun: str) -> str:
    """A number and its noun, which is in the plural unless it is one: `1 round`, `3 rounds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
