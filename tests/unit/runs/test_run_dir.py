"""A run's folder is new, or it is the same run's."""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import collafuse_flwr
from collafuse_flwr.config.config import SETTINGS, Config
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import SettingError, UserError
from collafuse_flwr.runs.run_dir import RESUMABLE, open_run, read_config
from collafuse_flwr.runs.run_layout import LAYOUT
from simulations import generate
from simulations.attack import __main__ as attack
from simulations.report import __main__ as report
from simulations.sweep.grid import SweepRun
from simulations.sweep.job import run_job
from tests.commands import refused
from tests.component.simulations.report.fakes import settings

#: Another value for settings of which twice, or not, the default is not allowed.
OTHER: dict[str, object] = {
    "strategy": "another",
    "runner": "local",
    "device": "cpu",
    "precision": "float32",
    "dataset": ["mnist"],
    "partition": "iid",
    "model": "small",
    "client.model": "small",
    "diffusion.schedule": "linear",
    "diffusion.prediction_type": "epsilon",
    "upload.noise": "resampled",
    "upload.dtype": "float32",
    "client.update_budget": "full",
    "client.init_from": "random",
    "train.lr_schedule": "constant",
    "train.loss_weighting": "min_snr",
    "sampling.sampler": "ddim",
    "cut.client_ratios": [0.1] * 10,
    "federation.fraction_train": 0.5,
    "train.ema_decay": 0.5,
}


def other(name: str) -> object:
    """A value of a setting that is not its default."""
    default = Config().to_flat()[name]
    if name in OTHER:
        return OTHER[name]
    if isinstance(default, list):
        return [*default, "another"]
    return "elsewhere" if isinstance(default, str) else not default if isinstance(default, bool) else default / 2 or 1


def test_a_new_run_records_its_settings(tmp_path: Path) -> None:
    config, folder = Config.from_flat({"cut_ratio": 0.35, "num_supernodes": 3}), tmp_path / "deep" / "run"
    open_run(config, folder)
    assert read_config(folder) == config
    written = json.loads((folder / "config.json").read_text())
    assert written == config.to_flat() | {"layout": LAYOUT, "version": collafuse_flwr.__version__}
    assert [path.name for path in folder.iterdir()] == ["config.json"]


@pytest.mark.parametrize("there", [[], [".hydra/config.yaml"], ["server.log", "client.log"], [".hydra/x", "run.log"]])
def test_a_folder_that_holds_logs_only_is_as_good_as_new(tmp_path: Path, there: list[str]) -> None:
    for name in there:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    open_run(Config(), tmp_path)
    assert read_config(tmp_path) == Config()


@pytest.mark.parametrize("there", ["config.json", "thesis.tex", "clients/0/secret", "run.log.txt"])
def test_a_folder_with_anything_else_is_left_alone(tmp_path: Path, there: str) -> None:
    path = tmp_path / there
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.raises(
        SettingError, match=r"^`output` = .* is not allowed: a new or empty folder, or resume=true"
    ) as caught:
        open_run(Config(), tmp_path)
    assert repr(str(tmp_path)) in str(caught.value)
    assert path.read_text() == "mine"
    assert sum(1 for _ in tmp_path.rglob("*") if _.is_file()) == 1


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("mine")
    with pytest.raises(SettingError, match=r"^`output` = "):
        open_run(Config(), path)
    assert path.read_text() == "mine"


def test_a_run_is_resumed_with_its_own_settings(tmp_path: Path) -> None:
    config = Config.from_flat({"cut_ratio": 0.35})
    open_run(config, tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    open_run(replace(config, run=replace(config.run, resume=True)), tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before, "as it was begun"


@pytest.mark.parametrize("name", SETTINGS)
def test_only_what_changes_no_result_may_differ_when_a_run_is_resumed(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config()
    open_run(config, tmp_path)
    changed: Any = Config.from_flat({"resume": True})
    flat = changed.to_flat() | {name: other(name) if name != "resume" else True}
    assert name == "resume" or flat[name] != config.to_flat()[name]
    monkeypatch.setattr(Config, "to_flat", lambda self: flat if self is changed else original(self))
    if name in RESUMABLE:
        open_run(changed, tmp_path)
        return
    with pytest.raises(SettingError) as caught:
        open_run(changed, tmp_path)
    error = str(caught.value)
    assert error.startswith(f"`{name}` = {flat[name]!r} is not allowed: {original(config)[name]!r}")
    assert "\n" not in error


original = Config.to_flat


def test_what_may_differ_are_settings() -> None:
    assert set(RESUMABLE) < set(SETTINGS)


@pytest.mark.parametrize("exists", [True, False])
def test_where_there_is_no_run_none_is_resumed(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "run"
    if exists:
        folder.mkdir()
    with pytest.raises(SettingError, match=r"^`output` = .* a folder that holds a run \(no config.json in it\)$"):
        open_run(Config.from_flat({"resume": True}), folder)
    with pytest.raises(SettingError, match=r"^`output` = "):
        read_config(folder)
    assert folder.exists() == exists


@pytest.mark.parametrize("content", [b"", b"{", b'{"cut_ratio": 0.2', b"\xff\xfe", b"[]", b"null", b'"text"', b"3"])
def test_damaged_settings_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        open_run(Config.from_flat({"resume": True}), tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'} is damaged: ")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "config.json").read_bytes() == content


OLD = "older than 0.1.0 with the layout 1"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"cut_ratio": 0.2}, f"version {OLD} (this version reads {LAYOUT})"),
        (
            {"layout": 1, "version": "0.0.9", "no_such": 1},
            f"version 0.0.9 with the layout 1 (this version reads {LAYOUT})",
        ),
        ({"layout": LAYOUT + 1, "version": "9.1"}, f"version 9.1 with the layout {LAYOUT + 1} (this version reads"),
        (
            {"layout": LAYOUT, "version": "0.1.1", "no_such": 1},
            "version 0.1.1 with settings that this version does not",
        ),
        ({"layout": LAYOUT, "version": "0.1.1", "cut_ratio": 2}, "does not read: `cut_ratio` = 2 is not allowed"),
        ({"layout": LAYOUT, "version": "0.1.1", "cut_ratio": None}, "does not read: `cut_ratio` = None is not allowed"),
    ],
)
def test_a_run_of_another_version_is_refused_with_the_version_and_what_to_do(
    tmp_path: Path, written: dict[str, object], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(written))
    for opens in (read_config, lambda folder: open_run(Config.from_flat({"resume": True}), folder)):
        with pytest.raises(UserError) as caught:
            opens(tmp_path)
        assert str(caught.value).startswith(f"the run in {tmp_path} was written by version ")
        assert message in str(caught.value)
        assert str(caught.value).endswith("; run it again in another folder, or use that version")
        assert "\n" not in str(caught.value)
    assert json.loads((tmp_path / "config.json").read_text()) == written, "left as it was"


def test_a_finished_run_of_an_older_layout_is_used_by_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written by hand, as the first versions did: the same settings, all files, no layout."""
    config = settings()
    folder = tmp_path / "cell"
    write_json(folder / "config.json", config.to_flat())
    write_json(folder / "summary.json", {"pooled": {"fd": 1.0}, "clients": [], "server": {}})
    write_json(folder / "clients" / "0" / "state.json", {})
    for main, arguments in (
        (generate.main, [f"run={folder}", "client=0"]),
        (attack.main, [f"run={folder}"]),
        (report.main, [f"runs={tmp_path}", f"output={tmp_path / 'report'}"]),
    ):
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        assert main() == 2
        assert OLD in refused(capsys)
    result = run_job(SweepRun(1, "cell", config), tmp_path)
    assert result.state == "failed"
    assert OLD in result.message
    assert (folder / "summary.json").is_file()


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["version"] == collafuse_flwr.__version__
