from __future__ import annotations

from pathlib import Path

import pytest

from collafuse_flwr.core.errors import RunFailed, UserError
from simulations.runners.run_log import RunLog

LINES = """\
\x1b[92mINFO \x1b[0m:      Starting Flower Simulation
round 1/2: backbone loss 0.5
\x1b[91mERROR \x1b[0m:     Traceback (most recent call last):
  File "server_app.py", line 1, in main
    raise SettingError("seed", -1, "a whole number >= 0")
collafuse_flwr.core.errors.SettingError: `seed` = -1 is not allowed: a whole number >= 0
(raylet) A worker died
""".splitlines(keepends=True)
MESSAGE = "`seed` = -1 is not allowed: a whole number >= 0"


def read(tmp_path: Path, *, show: bool = False) -> RunLog:
    with RunLog(tmp_path / "flwr.log", show) as log:
        for line in LINES:
            log.add(line)
    return log


def test_the_whole_log_is_kept_without_colours(tmp_path: Path) -> None:
    log = read(tmp_path)
    assert (tmp_path / "flwr.log").read_text().splitlines() == log.lines
    assert len(log.lines) == len(LINES)
    assert log.lines[0] == "INFO :      Starting Flower Simulation"


def test_only_what_the_server_says_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(tmp_path, show=True)
    assert capsys.readouterr().out == "round 1/2: backbone loss 0.5\n"
    read(tmp_path)
    assert capsys.readouterr().out == ""


def test_a_stream_that_begins_anew_repeats_nothing(tmp_path: Path) -> None:
    with RunLog(tmp_path / "flwr.log", show=False) as log:
        for count in (2, 4):
            log.rewind()
            for line in LINES[:count]:
                log.add(line)
    assert len((tmp_path / "flwr.log").read_text().splitlines()) == 4


@pytest.mark.parametrize("kind", ["Simulation", "ServerApp"])
def test_an_error_meant_for_the_user_is_recovered(tmp_path: Path, kind: str) -> None:
    error = read(tmp_path).failure("finished:failed", f"{kind} failed with exception: {MESSAGE}")
    assert type(error) is UserError
    assert str(error) == MESSAGE


def test_a_run_that_failed_is_not_taken_for_a_mistake_in_a_setting(tmp_path: Path) -> None:
    reason = "no client contributed in round 1: no memory"
    with RunLog(tmp_path / "flwr.log", show=False) as log:
        log.add(f"collafuse_flwr.core.errors.RunFailed: {reason}\n")
    error = log.failure("finished:failed", f"Simulation failed with exception: {reason}")
    assert (type(error), str(error)) == (RunFailed, reason)


@pytest.mark.parametrize(
    ("status", "details", "message"),
    [
        ("finished:failed", "Simulation failed with exception: a bug\nin two lines", "finished:failed (a bug)"),
        ("finished:failed", "No heartbeat received from the task", "finished:failed (No heartbeat"),
        ("finished:stopped", "", "ended as finished:stopped; its log is"),
    ],
)
def test_any_other_end_is_reported_in_one_line(tmp_path: Path, status: str, details: str, message: str) -> None:
    error = read(tmp_path).failure(status, details)
    assert isinstance(error, RunFailed)
    assert message in str(error)
    assert "\n" not in str(error)


def test_without_a_file_of_its_own_it_says_which_command_shows_the_log() -> None:
    with RunLog(None, show=False) as log:
        log.add("round 1")
    assert str(log.failure("finished:stopped", "")).endswith("; `flwr log` shows its log")
