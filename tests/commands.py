"""What tests of the commands have in common."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from simulations import run


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refusal is."""
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    return line


def run_here(folder: Path, *arguments: str) -> int:
    """`python -m simulations.run` in this process, in a working directory; its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["run", *arguments])
        return run.main()
