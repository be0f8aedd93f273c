"""The log of a run in the daemon: kept whole, shown in part, and read for the reason of a failure."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path
from typing import TextIO

from collafuse_flwr.core.errors import RunFailed, UserError

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
#: Lines that the server did not print: of Flower's logger and command line, of Ray, of warnings and tracebacks.
_NOISE = re.compile(
    r"\s|$|(DEBUG|INFO|WARNING|ERROR|CRITICAL)\s*:|Using SuperLink|Successfully installed"
    r"|\((raylet|ClientAppActor|pid=)|The actor |[\w./-]+:\d+: \w*Warning"
    r"|Traceback |The above exception|During handling|Exception \w+ occurred|Exit Code"
    r"|[\w.]*(Error|Exception|RunFailed)\b"
)
_DETAILS = re.compile("^(Simulation|ServerApp) failed with exception: ")


class RunLog:
    """Takes the lines of a log in, writes them to a file, and prints what the server says."""

    def __init__(self, path: Path | None, show: bool) -> None:
        """Keep the log at `path`, if there is one; `show`: print the server's lines as well."""
        self.path, self._show = path, show
        self.lines: list[str] = []
        self._at = 0
        self._file: TextIO | None = None

    def __enter__(self) -> RunLog:
        self._file = self.path.open("w") if self.path is not None else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def rewind(self) -> None:
        """Expect the log from its beginning: lines that are known already are passed over."""
        self._at = 0

    def add(self, line: str) -> None:
        """Take in the next line."""
        line = _COLOUR.sub("", line.rstrip("\n"))
        self._at += 1
        if self._at <= len(self.lines):
            return
        self.lines.append(line)
        if self._file is not None:
            print(line, file=self._file, flush=True)
        if self._show and not _NOISE.match(line):
            print(line, flush=True)

    def failure(self, status: str, details: str) -> UserError:
        """The error that stopped the server, if it was meant for the user; else where to look.

        Flower tells the message of the exception, and its log ends a traceback by the exception's class and message.
        """
        message = _DETAILS.sub("", details)
        first = message.split("\n")[0]
        for line in self.lines:
            name, _, text = line.partition(": ")
            if message and text == first and (kind := _user_error(name)) is not None:
                return RunFailed(message) if issubclass(kind, RunFailed) else UserError(message)
        reason = f"{status} ({first})" if first else status
        where = "`flwr log` shows its log" if self.path is None else f"its log is {self.path}"
        return RunFailed(f"the run ended as {reason}; {where}")


def _user_error(name: str) -> type[UserError] | None:
    """The class that a name such as `collafuse_flwr.core.errors.DataError` is of; None if it is not for the user."""
    try:
        kind = pkgutil.resolve_name(name)
    except (ValueError, ImportError, AttributeError):
        return None
    return kind if isinstance(kind, type) and issubclass(kind, UserError) else None
