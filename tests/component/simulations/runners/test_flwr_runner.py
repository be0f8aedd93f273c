from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import RunFailed, SettingError, UserError
from simulations.runners import flwr as runner
from simulations.runners import superlink
from simulations.runners.flwr import REPOSITORY, run_flwr
from simulations.runners.processes import descendants
from simulations.runners.resources import machine
from tests.projects import write_project

WriteApps = Callable[[str, str], str]
#: One worker.
SETTINGS: dict[str, object] = {
    "num_supernodes": 3,
    "runner": "flwr",
    "output": "out",
    "resources.client_num_cpus": float(machine()[0]),
}

CODE = """
@app.train()
def train(message, context):
    who = {"id": context.node_config["partition-id"], "cut": context.run_config["cut-ratio"]}
    return Message(RecordDict({"who": ConfigRecord(who)}), reply_to=message)

@server.main()
def main(grid, context):
    if context.run_config["seed"] == 13:
        raise DataError("no such folder")
    replies = ask(grid, nodes(grid, context))
    print("who:", sorted(reply.content["who"]["id"] for reply in replies), context.run_config["cut-ratio"])
"""


@pytest.fixture
def app_dir(write_apps: WriteApps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny Flower app; the package it imports errors from is found where this test finds it."""
    write_apps("tiny_apps", CODE)
    write_project(tmp_path, "tiny-app", "tiny_apps:server", "tiny_apps:app")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return tmp_path


def assert_nothing_is_left(before: set[int]) -> None:
    deadline = time.monotonic() + 10
    while (left := descendants(os.getpid()) - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


@pytest.mark.usefixtures("warm")
def test_a_run_completes_and_leaves_its_log(app_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = descendants(os.getpid())
    result = run_flwr(Config.from_flat({**SETTINGS, "cut_ratio": 0.3}), app_dir=app_dir)
    assert capsys.readouterr().out == "who: [0, 1, 2] 0.3\n"
    assert result.folder == app_dir / "out"
    assert "who: [0, 1, 2] 0.3\n" in (app_dir / "out" / "flwr.log").read_text()
    assert_nothing_is_left(before)


@pytest.mark.usefixtures("warm")
def test_an_error_meant_for_the_user_reaches_the_caller(app_dir: Path) -> None:
    before = descendants(os.getpid())
    with pytest.raises(UserError, match=r"^no such folder$"):
        run_flwr(Config.from_flat({**SETTINGS, "seed": 13}), app_dir=app_dir)
    assert "DataError: no such folder" in (app_dir / "out" / "flwr.log").read_text()
    assert_nothing_is_left(before)


def test_what_flower_cannot_do_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"`resources.client_num_cpus` = 0.5 is not allowed: a whole number from 1"):
        run_flwr(Config.from_flat({**SETTINGS, "resources.client_num_cpus": 0.5}))
    with pytest.raises(SettingError, match=r"needs the app's pyproject.toml"):
        run_flwr(Config.from_flat(SETTINGS), app_dir=tmp_path)


def test_a_superlink_that_does_not_start_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # A port below 1 cannot be listened to.
    monkeypatch.setattr(superlink, "free_port", lambda: -1)
    with pytest.raises(RunFailed, match=r"^flower-superlink did not start: "), superlink.private_superlink():
        pass


def test_relative_paths_are_whole_ones_for_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no path, as a factory's own word, stays as it is."""
    monkeypatch.chdir(tmp_path)
    for name in ("scans", "start", "public", "codec"):
        (tmp_path / name).mkdir()
    given = {"dataset": ["imagefolder", "package.module:load"], "dataset_path": ["scans", "word"], "output": "out"}
    given |= {"start_from": "start", "public.dataset": "imagefolder", "public.dataset_path": "public"}
    given |= {"codec": "codec"}
    config = runner._with_absolute_paths(Config.from_flat(given))
    assert config.data.dataset_path == (str(tmp_path / "scans"), "word")
    assert config.run.output == str(tmp_path / "out")
    assert config.diffusion.start_from == str(tmp_path / "start")
    assert config.public.dataset_path == str(tmp_path / "public")
    assert config.data.codec == str(tmp_path / "codec")
    assert runner._with_absolute_paths(Config()) == Config()
