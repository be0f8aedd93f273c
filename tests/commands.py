"""What tests of the commands have in common."""

from __future__ import annotations

import pytest


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refusal is."""
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    return line
