"""One cell of a sweep, run in a process of its own, so that whatever happens to it happens to nothing else.

The cell's log is also the claim on it: it is locked for as long as the cell's process has it open, also when the sweep
that started it was killed; and a lock ends with the processes that hold it, so that none is ever left over.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import UserError
from collafuse_flwr.runs.run_dir import RESUMABLE, open_config
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.sweep.grid import SweepRun, canonical, override, overrides

#: What runs a cell; its settings follow.
COMMAND = (sys.executable, "-m", "simulations.run")
#: What attacks one that is finished.
ATTACK = (sys.executable, "-m", "simulations.attack")
#: Seconds that a cell has to end when the sweep is stopped.
PATIENCE = 30.0

State = Literal["done", "done before", "failed", "claimed"]


@dataclass(frozen=True)
class JobResult:
    """How a cell ended; `status` is that of its process, if there was one, and `message` a line for people."""

    name: str
    state: State
    seconds: float = 0.0
    status: int | None = None
    message: str = ""


def run_job(cell: SweepRun, sweep: Path) -> JobResult:
    """Run a cell unless it has been, taking up its checkpoint if it left one; failures are reported, not raised."""
    folder = sweep / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    layout = RunLayout(folder)
    with layout.log.open("a+b") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return JobResult(cell.name, "claimed", message="another process is running it")
        try:
            config = _to_run(cell.config, folder)
        except UserError as error:
            return JobResult(cell.name, "failed", message=str(error))
        finished = layout.summary.is_file()
        if finished and (not config.run.attack or layout.attack_results.is_file()):
            return JobResult(cell.name, "done before", message=quality(folder))
        began = time.monotonic()
        status = _attack(folder, log) if finished else _run(config, folder, log)
        seconds = time.monotonic() - began
        if status == 0:
            return JobResult(cell.name, "done", seconds, status, quality(folder))
        return JobResult(cell.name, "failed", seconds, status, _reason(layout.log, status))


def quality(folder: Path) -> str:
    """FD and TSTR of a finished run, as far as they were measured."""
    pooled: dict[str, Any] = json.loads(RunLayout(folder).summary.read_text())["pooled"]
    shown = [("FD", pooled.get("fd"), ".2f"), ("TSTR", pooled.get("tstr"), ".3f")]
    return ", ".join(f"{name} {value:{digits}}" for name, value, digits in shown if value is not None)


def _to_run(config: Config, folder: Path) -> Config:
    """The settings to run a cell with; where it has begun those of its folder, which may spell the same otherwise.

    Raises:
        UserError: the folder holds another run.
    """
    layout, resume = RunLayout(folder), False
    if layout.config.is_file():
        before = open_config(folder)
        if canonical(before) != canonical(config):
            raise UserError(f"{folder} holds a run of other settings")
        now = config.to_flat()
        config = Config.from_flat(before.to_flat() | {name: now[name] for name in RESUMABLE})
        resume = layout.checkpoint.is_file()
    return replace(config, run=replace(config.run, output=str(folder), resume=resume, quiet=True))


def _run(config: Config, folder: Path, log: IO[bytes]) -> int:
    """Run the settings in a process that writes to the log; its exit status."""
    if not config.run.resume:
        log.truncate(0)
        # What is left of a run that never came to a checkpoint.
        if RunLayout(folder).config.is_file():
            _clear(folder)
    return _wait([*COMMAND, *overrides(config)], log)


def _attack(folder: Path, log: IO[bytes]) -> int:
    """Attack a finished run in a process that writes to the log, in place of an attack that was cut off."""
    shutil.rmtree(RunLayout(folder).attacks, ignore_errors=True)
    return _wait([*ATTACK, override("run", str(folder))], log)


def _wait(command: list[str], log: IO[bytes]) -> int:
    """The exit status of a process, which ends with this one."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != RunLayout(folder).log:
            entry.unlink()


def _reason(log: Path, status: int) -> str:
    """Why a cell failed, in one line: what it said last, or the signal that ended it."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return next(reversed(errors or lines), "it said nothing")
