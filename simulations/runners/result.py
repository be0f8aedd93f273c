"""How a run ends: a result, or one line about what went wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from collafuse_flwr.core.errors import RunFailed, UserError


@dataclass(frozen=True)
class RunResult:
    """A run that is complete."""

    run_id: int
    folder: Path


class Stopped(KeyboardInterrupt):
    """A signal that is to end the program has come; like Ctrl-C it passes through everything that handles errors."""

    def __init__(self, number: int) -> None:
        """Keep the number of the signal."""
        self.number = number
        super().__init__()


def raise_failure(error: BaseException) -> None:
    """Raise what stopped the server: mistakes of the user's as they are, anything else as `RunFailed` from it.

    Raises:
        UserError: always, unless `error` is an interrupt, which passes as well.
    """
    if isinstance(error, (UserError, KeyboardInterrupt)):
        raise error
    raise RunFailed(f"the server stopped with {describe(error)}") from error


def describe(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
