"""Processes by id: their descendants, and how to be sure that they are gone."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

#: Signals that end a program in good order.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def pass_signals_to(process: subprocess.Popen[bytes], patience: float | None = None) -> None:
    """Have signals that would end this program end the process that it stands for.

    One that still runs `patience` seconds later is interrupted as well, which ends a server that waits for connections.
    """

    def passed(number: int, _: object) -> None:
        process.send_signal(number)
        if patience is not None:
            again = threading.Timer(patience, process.send_signal, [signal.SIGINT])
            again.daemon = True
            again.start()

    for number in ENDING:
        signal.signal(number, passed)


def exit_status(process: subprocess.Popen[bytes]) -> int:
    """The exit status of a process once it has ended, as the command line gives it."""
    status = process.wait()
    return status if status >= 0 else 128 - status


def leave(status: int) -> NoReturn:
    """End this process, also where Python would wait for ever: for a thread that waits for a worker of Ray's."""
    left = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    if status and left:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def descendants(pid: int) -> set[int]:
    """The ids of all processes below one, in other sessions too."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents().items():
        children.setdefault(parent, []).append(child)
    pids, new = set[int](), [pid]
    while new:
        new = [child for parent in new for child in children.get(parent, [])]
        pids.update(new)
    return pids


def alive(pids: Iterable[int]) -> set[int]:
    """Those of some processes that still run; one that has ended and was not waited for does not."""
    running = _parents()
    return {pid for pid in pids if pid in running}


def end(pids: Iterable[int], patience: float) -> None:
    """Wait `patience` seconds for processes to end by themselves, then kill them."""
    left, deadline = set(pids), time.monotonic() + patience
    while (left := alive(left)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _parents() -> dict[int, int]:
    """The parent of every process that runs: from /proc, or from `ps` where there is none (macOS)."""
    if not Path("/proc/self/stat").exists():
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
        rows = [line.split() for line in listing.stdout.splitlines()]
        return {int(pid): int(parent) for pid, parent, state in rows if not state.startswith("Z")}
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        # A process may end between the listing and the reading.
        with contextlib.suppress(OSError):
            # The name comes in parentheses and may hold anything, also a parenthesis.
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    return parents
