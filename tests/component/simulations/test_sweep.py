"""`python -m simulations.sweep`: which cells run, what goes on after what, and how it is reported.

A stand-in takes the place of `simulations.run`; a sweep of real runs is in tests/integration.
"""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.runs.run_dir import write_config
from collafuse_flwr.runs.run_layout import LAYOUT
from simulations import run
from simulations.sweep import job, sweep
from simulations.sweep.grid import SweepRun
from simulations.sweep.job import run_job
from tests.component.simulations.report.fakes import fake, settings

#: Writes what a run leaves and notes that it was called; some seeds mean trouble.
STAND_IN = """
import json, os, pathlib, sys, time
given = dict(argument.split("=", 1) for argument in sys.argv[2:])
value = lambda text: text[1:-1] if text.startswith("'") else json.loads(text)
settings = {name: value(text) for name, text in given.items()}
root, folder = pathlib.Path(sys.argv[1]), pathlib.Path(settings["output"])
with (root / "calls").open("a") as calls:
    calls.write(json.dumps(settings) + "\\n")
print("round 1/2")
if not settings["resume"]:
    assert [path.name for path in folder.iterdir()] == ["run.log"]
    (folder / "config.json").write_text(json.dumps(settings | {"layout": LAYOUT}))
if settings["seed"] == 13 and not (root / "healed").exists():
    sys.exit(print("error: the disk is full\\nbye") or 3)
if settings["seed"] == 9:
    os.kill(os.getpid(), 9)
if settings["seed"] == 60:
    time.sleep(60)
(folder / "summary.json").write_text((root / "summary.json").read_text())
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in keeps its notes; the working directory is another."""
    root, here = tmp_path / "stand-in", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    write_json(root / "summary.json", fake(root).summary)
    (root / "run.py").write_text(STAND_IN.replace("LAYOUT", str(LAYOUT)))
    monkeypatch.setattr(job, "COMMAND", (sys.executable, str(root / "run.py"), str(root)))
    return root


@pytest.fixture
def calls(root: Path) -> Callable[[], list[dict[str, object]]]:
    """The settings of every call of the stand-in so far."""
    path = root / "calls"
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def call(*arguments: str) -> int:
    """The command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sweep", *arguments])
        return sweep.main()


Calls = Callable[[], list[dict[str, object]]]


def test_every_combination_is_run_once(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("-m", "cut_ratio=0.3,1", "upload.noise=fixed,resampled", "seed=0,1", "runner=local", "output=out") == 0
    made = [(run["cut_ratio"], run["upload.noise"], run["seed"]) for run in calls()]
    twice = [(0.3, "fixed", 0), (0.3, "fixed", 1), (0.3, "resampled", 0), (0.3, "resampled", 1)]
    assert made == [*twice, (1.0, "fixed", 0), (1.0, "fixed", 1)]
    assert all(run["quiet"] and not run["resume"] and run["runner"] == "local" for run in calls())
    printed = capsys.readouterr()
    assert printed.err == ""
    out = Path("out").absolute()
    names = [Path(str(run["output"])).name for run in calls()]
    assert f"seed=0 cut_ratio=1.0 upload.noise=resampled: same run as {names[4]}" in printed.out
    assert f"cell 2 of 6: {names[1]}: starts" in printed.out
    assert f"cell 2 of 6: {names[1]}: done" in printed.out
    assert "FD 1.66, TSTR 0.967; 4 left" in printed.out
    assert printed.out.endswith(f"The report is {out / 'report' / 'report.html'}\n")
    # Nothing else lies around, also not where the command was called.
    assert [path.name for path in Path.cwd().iterdir()] == ["out"]
    assert {path.name for path in out.iterdir()} == {*names, "report"}


def test_without_values_it_is_a_sweep_of_one_in_a_new_folder(calls: Calls) -> None:
    assert call("cut_ratio=0.3") == 0
    (made,) = (Path.cwd() / "runs").iterdir()
    assert made.name.endswith("-collafuse-digits-c0.3-sweep")
    assert len(calls()) == 1


def test_a_failure_is_reported_and_tried_again(root: Path, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("seed=0,13,1", "output=out") == 1
    name = next(path.name for path in Path("out").iterdir() if "-s13-" in path.name)
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"{name}: failed")
    assert line.endswith("(exit status 3): the disk is full")
    assert "2 of 3 cells are finished" in printed.out
    assert [run["seed"] for run in calls()] == [0, 13, 1]
    (root / "healed").touch()
    assert call("seed=0,13,1", "output=out") == 0
    assert [run["seed"] for run in calls()[3:]] == [13]
    assert "done before: FD" in capsys.readouterr().out


def test_a_cell_that_is_killed_takes_nothing_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("seed=9,1", "output=out") == 1
    printed = capsys.readouterr()
    assert "killed by SIGKILL" in printed.err
    assert "1 of 2 cells are finished" in printed.out


def test_an_interrupted_cell_goes_on_under_the_name_it_has(calls: Calls) -> None:
    """Also when more is swept than before, and its settings are spelt in another way."""
    assert call("seed=13,1", "output=out", "cut.client_ratios=[0.3,0.3]", "num_supernodes=2") == 1
    folder = next(path for path in Path("out").absolute().iterdir() if "-s13-" in path.name)
    (folder / "server").mkdir()
    (folder / "server" / "state.safetensors").touch()
    call("seed=13,1", "output=out", "cut_ratio=0.3", "num_supernodes=2", "upload.noise=fixed,resampled")
    again = [run for run in calls()[2:] if run["output"] == str(folder)]
    assert [(run["resume"], run["cut.client_ratios"]) for run in again] == [(True, [0.3, 0.3])]


def test_what_never_came_to_a_checkpoint_begins_afresh(root: Path) -> None:
    assert call("seed=13", "output=out") == 1
    (folder,) = (path for path in Path("out").iterdir() if path.name != "report")
    (folder / "clients").mkdir()
    (root / "healed").touch()
    assert call("seed=13", "output=out") == 0
    assert not (folder / "clients").exists()
    assert (folder / "run.log").read_text() == "round 1/2\n"


def test_a_cell_is_run_by_one_process_at_a_time(tmp_path: Path, calls: Calls) -> None:
    cell = SweepRun(1, "cell", settings())
    (tmp_path / "cell").mkdir()
    with (tmp_path / "cell" / "run.log").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert run_job(cell, tmp_path).state == "claimed"
        assert calls() == []
    # What held it has ended; its log is no claim.
    assert run_job(cell, tmp_path).state == "done"
    assert run_job(cell, tmp_path).state == "done before"


def test_another_run_is_never_touched(tmp_path: Path, calls: Calls) -> None:
    write_config(settings(seed=5), tmp_path / "cell")
    result = run_job(SweepRun(1, "cell", settings()), tmp_path)
    assert (result.state, result.message) == ("failed", f"{tmp_path / 'cell'} holds a run of other settings")
    assert calls() == []


def test_who_stops_the_sweep_stops_the_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def wait(self, timeout: float | None = None) -> int:
            if self not in started:
                started.append(self)
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_job(SweepRun(1, "cell", settings(seed=60)), tmp_path)
    assert [process.returncode for process in started] == [-signal.SIGTERM]


WRONG = {
    "cut_rato=0,1": "`cut_rato`: no such setting; did you mean `cut_ratio`",
    "strategy=foo seed=0,1": "`strategy` = 'foo' is not allowed: one of collafuse, pfdm",
    "num_rounds=0 seed=0,1": "`num_rounds` = 0 is not allowed: a whole number >= 1",
    "output=here,there": "`output` = 'here,there' is not allowed: one folder, for the whole sweep",
    "dataset=npz seed=0,1": "dataset_path",
}


@pytest.mark.parametrize(("wrong", "message"), WRONG.items(), ids=WRONG)
def test_a_mistake_in_all_is_refused_in_one_line(
    calls: Calls, capsys: pytest.CaptureFixture[str], wrong: str, message: str
) -> None:
    assert call("-m", *wrong.split(" ")) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert calls() == []
    assert list(Path.cwd().iterdir()) == []


def test_a_combination_that_is_not_allowed_stops_no_other(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("upload.noise=fixed,official", "upload.draws_per_image=1,2", "output=out") == 1
    made = [(run["upload.noise"], run["upload.draws_per_image"]) for run in calls()]
    assert made == [("fixed", 1), ("fixed", 2), ("official", 1)]
    assert capsys.readouterr().err == (
        "not run: `upload.draws_per_image` = 2 is not allowed: 1 when `upload.noise` is official\n"
    )


def test_what_a_strategy_does_not_read_is_not_swept(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    """Cuts are of CollaFuse: FedAvg runs once, and a strategy that there is not stops no other."""
    assert call("strategy=collafuse,fedavg,foo", "cut_ratio=0.3,0.4", "output=out") == 1
    made = [(run["strategy"], run["cut_ratio"]) for run in calls()]
    assert sorted(map(str, made)) == sorted(map(str, [("collafuse", 0.3), ("collafuse", 0.4), ("fedavg", 0.2)]))
    assert "same run as" in capsys.readouterr().out


def test_one_run_is_not_a_sweep(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(sys, "argv", ["run", "-m", "seed=0,1"])
    assert run.main() == 2
    assert "`python -m simulations.sweep` makes them" in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []
