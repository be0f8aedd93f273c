"""`python -m simulations.status` on the folder of a run, from its first round to its end."""

from __future__ import annotations

import io
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from collafuse_flwr.runs.run_dir import open_run
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.runs.run_status import RunStatus
from collafuse_flwr.runs.summary import summarize_run
from simulations import status
from tests.commands import refused
from tests.small_runs import run_strategy, small


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = small(folder)
    open_run(config, folder)
    run_strategy(config)
    summarize_run(folder)
    return folder


@pytest.fixture
def unfinished(finished: Path, tmp_path: Path) -> Path:
    """The same run, as it was before its last round was closed."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    layout = RunLayout(folder)
    layout.summary.unlink()
    layout.metrics.write_text(layout.metrics.read_text().splitlines(keepends=True)[0])
    return folder


def shown(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["status", *arguments])
    return status.main()


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_a_finished_run_is_shown_and_nothing_is_written(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished)
    assert shown(monkeypatch, f"run={finished}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{finished}: finished (collafuse on digits)"
    assert lines[1].startswith("round 2 of 2, ")
    assert "clients 3 answered, 0 failed, 0 rejected" in lines[2]
    assert any(line.startswith("disclosed so far: images; releases of an image 1; SNR at the cut ") for line in lines)
    assert lines[-1].startswith("quality of all samples: Fréchet distance ")
    assert contents(finished) == before


def test_every_round_has_its_seconds(finished: Path) -> None:
    seconds = [row.seconds for row in RunStatus.of(finished).rounds]
    assert len(seconds) == 2
    assert all(0 < own < 300 for own in seconds)


def test_a_run_that_stopped_in_the_middle_exits_with_1_and_can_be_resumed(
    unfinished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(monkeypatch, f"run={unfinished}") == 0
    assert ": running (" in capsys.readouterr().out
    long_ago = time.time() - 1e5
    for path in (RunLayout(unfinished).config, RunLayout(unfinished).metrics):
        os.utime(path, (long_ago, long_ago))
    for follow in ("false", "true"):
        assert shown(monkeypatch, f"run={unfinished}", f"follow={follow}") == 1
        printed = capsys.readouterr().out
        assert ": stopped in the middle (" in printed
        assert "nothing was written for 27.8 h, `resume=true` goes on after the last round" in printed


@pytest.mark.parametrize("terminal", [False, True], ids=["plain lines", "a terminal"])
def test_following_ends_with_the_run(
    finished: Path, unfinished: Path, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    def go_on() -> None:
        for name in ("metrics.jsonl", "summary.json"):
            time.sleep(0.3)
            shutil.copyfile(finished / name, unfinished / f"{name}.new")
            (unfinished / f"{name}.new").replace(unfinished / name)

    drawn = io.StringIO()
    run = threading.Thread(target=go_on)
    run.start()
    last = status.follow(unfinished, Console(file=drawn, force_terminal=terminal, width=200), poll=0.02)
    run.join()
    assert (last.phase(time.time()), last.done) == ("finished", 2)
    if terminal:
        assert ": running (" in drawn.getvalue()
        assert ": finished (" in drawn.getvalue()
    else:
        lines = capsys.readouterr().out.splitlines()
        assert [line[:13] for line in lines[:2]] == ["round 1 of 2:", "round 2 of 2:"]
        assert lines[2] == f"{unfinished}: finished (collafuse on digits)"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "`run` = '' is not allowed: the folder of a run"),
        (["run=nowhere"], "`run` = 'nowhere' is not allowed: a folder that holds a run (no config.json in it)"),
        (["run=x", "follow=maybe"], "`follow` = 'maybe' is not allowed: true or false"),
        (["folder=x"], "`folder` = 'x' is not allowed: run=FOLDER or follow=true"),
        (["run"], "`run` = '' is not allowed: run=FOLDER or follow=true"),
    ],
)
def test_a_mistake_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert shown(monkeypatch, *arguments) == 2
    assert refused(capsys) == f"error: {said}"


def test_help_says_what_it_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(monkeypatch, "--help") == 0
    assert "python -m simulations.status run=FOLDER" in capsys.readouterr().out
