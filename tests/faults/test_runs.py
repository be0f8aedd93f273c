"""What can happen to a run on one machine, each with the process that a user would have."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from collafuse_flwr.runs.run_layout import RunLayout
from tests.faults.processes import ROUNDS, Run, result, rounds

Result = tuple[list[dict[str, Any]], dict[str, bytes]]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    assert Run(folder, "runner=local").finish()[0] == 0
    return result(folder)


def resumed(folder: Path, *arguments: str) -> Result:
    """What a run comes to that goes on."""
    status, error = Run(folder, "resume=true", *arguments).finish()
    assert status == 0, error
    return result(folder)


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_the_driver_is_killed_in_a_round(tmp_path: Path, undisturbed: Result, runner: str) -> None:
    run = Run(tmp_path / "out", f"runner={runner}")
    run.wait_for_rounds(1)
    assert run.strike(signal.SIGKILL)[0] == -signal.SIGKILL
    assert 1 <= len(rounds(tmp_path / "out")) < ROUNDS
    assert resumed(tmp_path / "out", f"runner={runner}") == undisturbed


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("runner", ["local", "ray"])
def test_a_signal_ends_a_run_in_one_line(
    tmp_path: Path, undisturbed: Result, runner: str, number: signal.Signals
) -> None:
    run = Run(tmp_path / "out", f"runner={runner}")
    run.wait_for_rounds(1)
    status, error = run.strike(number)
    assert status == 128 + number, error
    said = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    assert error == f"error: {said}; resume=true with the same `output` goes on after the last round\n"
    if runner == "local":
        assert resumed(tmp_path / "out") == undisturbed


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As nohup has it."""
    run = Run(tmp_path / "out", "runner=local", under=["nohup"])
    run.wait_for_rounds(1)
    run.process.send_signal(signal.SIGHUP)
    assert run.finish()[0] == 0


def workers(pid: int) -> list[psutil.Process]:
    """The processes of Ray that clients run in."""
    below = psutil.Process(pid).children(recursive=True)
    return [process for process in below if "ClientAppActor" in " ".join(process.cmdline())]


def test_a_worker_is_killed_in_a_round(tmp_path: Path) -> None:
    run = Run(tmp_path / "out", "runner=ray", "num_rounds=8")
    run.wait_for_rounds(1)
    workers(run.process.pid)[0].kill()
    status, error = run.finish()
    assert status == 0, error
    rows = rounds(tmp_path / "out")
    assert [row["round"] for row in rows] == list(range(1, 9))
    failed = [row["failed"] for row in rows if row["failed"]]
    assert sum(map(len, failed)) <= 1, "at most the client that was in it, in that round"
    assert not rows[-1]["failed"]
    assert all(len(row["uploads"]) <= 3 for row in rows)
    assert sum(len(row["uploads"]) for row in rows) == 3, "each upload is accepted once"


def test_two_runs_with_one_output_folder(tmp_path: Path) -> None:
    first = Run(tmp_path / "out", "runner=local", "num_rounds=1000")
    first.wait_until(RunLayout(tmp_path / "out").config.exists)
    for arguments in (("runner=local",), ("resume=true",)):
        status, error = Run(tmp_path / "out", *arguments).finish()
        assert status == 2
        assert error.startswith(f"error: `output` = '{tmp_path / 'out'}' is not allowed: ")
        assert len(error.splitlines()) == 1
    before = len(rounds(tmp_path / "out"))
    first.wait_for_rounds(before + 1)
    assert first.strike(signal.SIGTERM)[0] == 128 + signal.SIGTERM


def test_two_runs_at_once_on_one_machine(tmp_path: Path, undisturbed: Result) -> None:
    both = [Run(tmp_path / name, "runner=ray") for name in ("a", "b")]
    for run in both:
        status, error = run.finish()
        assert status == 0, error
        assert result(run.output) == undisturbed


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    run = Run(tmp_path / "out", "runner=local", "output=/proc/out")
    status, error = run.finish()
    assert status == 1
    assert error.splitlines()[-1].startswith("error: ")
    assert "/proc/out" in error.splitlines()[-1]


def test_the_disk_is_full(tmp_path: Path, undisturbed: Result) -> None:
    """A limit of file sizes stands in for it: a write fails half way, as on a full disk."""
    limited = ["bash", "-c", "trap '' XFSZ; ulimit -f 60; exec \"$@\"", "bash"]
    status, error = Run(tmp_path / "out", "runner=local", under=limited).finish()
    # Whoever writes first: the server, or a client, which is listed as failed.
    assert status == 1
    assert error.splitlines()[-1].startswith("error: ")
    assert "File too large" in error.splitlines()[-1]
    left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [name for name in left if name.startswith(".") and name.rpartition(".")[2].isdigit()], "half-written"
    assert resumed(tmp_path / "out") == undisturbed


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A run that was killed after two rounds."""
    run = Run(tmp_path / "out", "runner=local")
    run.wait_for_rounds(2)
    run.strike(signal.SIGKILL)
    return tmp_path / "out"


def test_it_is_resumed_twice_at_once(interrupted: Path, undisturbed: Result) -> None:
    both = [Run(interrupted, "resume=true") for _ in range(2)]
    ends = sorted(run.finish()[0] for run in both)
    # The later one is refused, or finds the run complete.
    assert ends in ([0, 0], [0, 2])
    assert result(interrupted) == undisturbed


def test_the_clock_is_set_back(interrupted: Path, undisturbed: Result) -> None:
    """All files are from the future then."""
    for path in interrupted.rglob("*"):
        os.utime(path, (4e9, 4e9))
    assert resumed(interrupted) == undisturbed
