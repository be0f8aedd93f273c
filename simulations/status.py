"""How far a run is: `python -m simulations.status run=FOLDER`, while it runs or afterwards.

Shows the round and the time that is left, which clients answered, failed (and why) or were rejected, losses, traffic,
what has been disclosed so far, and whether the run goes on, is finished, or has stopped in the middle. That it has
stopped is a guess: it has written nothing for much longer than its rounds take. The folder is read and never written.

  run=FOLDER: the folder of a run (`output`)
  follow=false: look once; true: look until it ends, on one place of a terminal, elsewhere a line for each round

The exit status is 1 if the run has stopped in the middle, and 2 where FOLDER holds no run that this version reads.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.runs.run_status import RunStatus, describe_round
from simulations.cli import FAILED, command

DEFAULTS = {"run": "", "follow": "false"}
#: Seconds between two looks.
POLL = 1.0


def looks(folder: Path, poll: float = POLL) -> Iterator[RunStatus]:
    """The run's status again and again, until it has ended; files are read only when they have changed.

    Raises:
        UserError: it cannot be read.
    """
    stamps, status = _stamps(folder), RunStatus.of(folder)
    yield status
    while status.phase(time.time()) in ("running", "measuring its samples"):
        time.sleep(poll)
        if (now := _stamps(folder)) != stamps:
            stamps, status = now, RunStatus.of(folder)
        yield status


def _stamps(folder: Path) -> list[int]:
    """When the files that tell of progress were written."""
    layout = RunLayout(folder)
    return [path.stat().st_mtime_ns for path in (layout.config, layout.metrics, layout.summary) if path.is_file()]


def follow(folder: Path, console: Console, poll: float = POLL) -> RunStatus:
    """Show the run until it ends: drawn anew on a terminal, elsewhere a line for each round and then all of it."""
    shown = 0
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            for status in looks(folder, poll):
                live.update(Text("\n".join(status.lines(time.time()))), refresh=True)
        return status
    for status in looks(folder, poll):
        for row in status.rounds[shown:]:
            print(f"round {row.round} of {status.config.run.num_rounds}: {describe_round(row)}", flush=True)
        shown = status.done
    _show(status)
    return status


def _show(status: RunStatus) -> None:
    print("\n".join(status.lines(time.time())), flush=True)


def _act(arguments: list[str]) -> int:
    settings = dict(DEFAULTS)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in DEFAULTS or not equals:
            raise SettingError(name, value, "run=FOLDER or follow=true")
        settings[name] = value
    if not settings["run"]:
        raise SettingError("run", "", "the folder of a run")
    if settings["follow"] not in ("true", "false"):
        raise SettingError("follow", settings["follow"], "true or false")
    folder = Path(settings["run"])
    if settings["follow"] == "true":
        status = follow(folder, Console(highlight=False))
    else:
        status = RunStatus.of(folder)
        _show(status)
    return FAILED if status.phase(time.time()) == "stopped in the middle" else 0


main = command(_act, usage=str(__doc__).strip(), going_on="the run itself goes on")

if __name__ == "__main__":
    sys.exit(main())
