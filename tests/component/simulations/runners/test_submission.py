"""How a run at a SuperLink that is not this command's own has ended, by the exit status."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from simulations import submit
from simulations.runners import submission
from simulations.runners.flwr import REPOSITORY
from simulations.runners.superlink import private_superlink
from tests.commands import refused
from tests.projects import write_project

CODE = """
@server.main()
def main(grid, context):
    seed = context.run_config["seed"]
    if seed == 1:
        raise RuntimeError("a bug")
    if seed == 2:
        time.sleep(600)
    if seed == 3:
        raise DataError("no such folder")
    print("done")
"""


@pytest.fixture
def app_dir(write_apps: Callable[[str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An app whose server ends as its seed says."""
    write_apps("ending_apps", CODE)
    write_project(tmp_path, "ending-app", "ending_apps:server", "ending_apps:app")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["submit", *arguments])
    return submit.main()


@pytest.mark.usefixtures("warm")
def test_the_exit_status_says_how_it_ended(
    app_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def ended(*arguments: str) -> tuple[int, str, str]:
        status = call(monkeypatch, *arguments)
        said = capfd.readouterr()
        return status, said.out, (said.err.splitlines() or [""])[-1]

    with private_superlink(simulation=False) as superlink:
        monkeypatch.setenv("FLWR_HOME", str(superlink.home))
        app = str(app_dir), "own", "--run-config"
        status, printed, _ = ended(*app, "seed=0")
        assert (status, printed.splitlines()[-1]) == (0, "done")
        completed = re.findall(r"^run (\d+) at own$", printed, re.MULTILINE)[0]
        assert ended("--run-id", completed, "own")[:2] == (0, "done\n")

        status, printed, error = ended(*app, "seed=1")
        assert (status, "finished:failed (a bug)" in error) == (1, True)
        failed = re.findall(r"^run (\d+) at own$", printed, re.MULTILINE)[0]
        assert ended("--run-id", failed, "own")[::2] == (1, error)
        assert ended(*app, "seed=3")[::2] == (2, "error: no such folder")

        status, _, error = ended("--run-id", "123", "own")
        assert (status, "`run-id` = 123 is not allowed: a run of this SuperLink" in error) == (2, True)
        status, _, error = ended(*app, "no-such-setting=0")
        assert (status, error.startswith("error: flwr run refused the app: ")) == (1, True)

        command = [sys.executable, "-m", "simulations.submit", *app, "seed=2"]
        with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as stopped:
            assert stopped.stdout is not None
            number = stopped.stdout.readline().split()[1]
            assert not superlink.flwr("stop", number).returncode
            _, said = stopped.communicate(timeout=120)
        assert (stopped.returncode, "finished:stopped" in said) == (1, True)
    (app_dir / "config.toml").write_text('[superlink.own]\naddress = "127.0.0.1:9"\ninsecure = true\n')
    monkeypatch.setenv("FLWR_HOME", str(app_dir))
    status, _, error = ended("--run-id", completed, "own")
    assert (status, "Connection to the SuperLink is unavailable" in error) == (1, True)


@pytest.mark.parametrize("arguments", [["."], [], [".", "--stream"], ["--run-id", "one", "own"], ["--run-id", "1"]])
def test_other_arguments_are_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *arguments) == 2
    assert "APP SUPERLINK and options of `flwr run`, or --run-id ID SUPERLINK" in refused(capsys)


def test_json_is_parsed_after_warnings_and_its_absence_is_no_error() -> None:
    assert submission._json(f"careful!\n{json.dumps({'run-id': 3})}") == {"run-id": 3}
    assert submission._json("nothing") == {}
