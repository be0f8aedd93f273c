"""A run in a process of its own, to be struck while it works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from collafuse_flwr.runs.run_layout import RunLayout
from simulations.runners.flwr import REPOSITORY
from simulations.runners.processes import alive, descendants, end
from tests.small_runs import SMALL

#: Seconds for what takes a few on an idle machine.
PATIENCE = 300.0
#: Enough that a run is not over by the time that a busy machine has seen its first round.
ROUNDS = 12


class Run:
    """`python -m simulations.run`, as a user starts it."""

    def __init__(self, output: Path, *arguments: str, under: Sequence[str] = ()) -> None:
        """Start it, `under` another command that ends as the run itself."""
        self.output = output
        settings = SMALL | {"num_rounds": ROUNDS, "model": "nano", "output": str(output)}
        given = () if "resume=true" in arguments else tuple(f"{name}={value}" for name, value in settings.items())
        command = [*under, sys.executable, "-m", "simulations.run", *given, *arguments]
        if not given:
            command.append(f"output={output}")
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        self.process = subprocess.Popen(
            command,
            cwd=output.parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_rounds(self, count: int) -> None:
        """Wait until so many rounds are closed."""
        self.wait_until(lambda: len(rounds(self.output)) >= count)

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait for something while the run goes on."""
        deadline = time.monotonic() + PATIENCE
        while not reached():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def strike(self, number: int) -> tuple[int, str]:
        """Send it a signal; its status, and what it said. Nothing that it started is left then."""
        below = descendants(self.process.pid)
        self.process.send_signal(number)
        status, error = self.finish()
        deadline = time.monotonic() + PATIENCE
        while (left := alive(below)) and time.monotonic() < deadline:
            time.sleep(0.1)
        end(left, patience=0)
        assert not left, "they would have run on"
        return status, error

    def finish(self) -> tuple[int, str]:
        """Wait for the end; the status, and what it said on standard error."""
        try:
            _, error = self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
        return self.process.returncode, error


def rounds(folder: Path) -> list[dict[str, Any]]:
    """The rounds that are closed, without how long they took."""
    path = RunLayout(folder).metrics
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [without_seconds(row) for row in rows]


def without_seconds(row: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping without the times in it, at any depth."""
    return {
        key: without_seconds(value) if isinstance(value, dict) else value
        for key, value in row.items()
        if "seconds" not in key
    }


def result(folder: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """What a run came to: its rounds, and the bytes of its networks."""
    networks = sorted(folder.glob("**/diffusion_pytorch_model.safetensors"))
    return rounds(folder), {str(path.relative_to(folder)): path.read_bytes() for path in networks}
