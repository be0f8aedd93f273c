"""What a run shows elsewhere, as the packages that it is shown with read it back."""

from __future__ import annotations

import importlib
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, NoReturn

import pytest
from PIL import Image

from collafuse_flwr.client.collafuse import CollaFuseClient
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import RunFailed, SettingError, UserError
from collafuse_flwr.runs import tracker
from collafuse_flwr.runs.history import RoundRecord
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.runs.tracker import TRACKERS, Tracker, check_tracker, open_tracker
from simulations import runners
from tests.small_runs import small

ROW = RoundRecord(1, server={"loss": 0.25}, bytes_up={"0": 7}, failed={"1": "late"}, seconds=2.0)
SUMMARY = {"pooled": {"fd": 3.0, "tstr": None}}


def config_of(name: str) -> Config:
    return Config.from_flat({"tracker": name})


def refuse(*_: object) -> NoReturn:
    raise UserError("it has no images")


def show(folder: Path, name: str, *rows: RoundRecord) -> None:
    """A run of two rounds with two pictures, of which one shows clients' own images."""
    layout = RunLayout(folder)
    layout.pictures.mkdir(parents=True, exist_ok=True)
    for picture in ("samples", "overview"):
        Image.new("RGB", (5, 4), (255, 0, 0)).save(layout.pictures / f"{picture}.png")
    with open_tracker(config_of(name), layout, rows[0].round) as shown:
        for row in rows:
            shown.round(row)
        shown.end(SUMMARY, layout.pictures, 2)


def events(folder: Path) -> tuple[dict[str, dict[int, float]], set[str]]:
    """The scalars by round, and the names of the pictures, as TensorBoard itself reads them."""
    accumulators = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    read = accumulators.EventAccumulator(str(folder)).Reload()
    tags = read.Tags()
    scalars = {name: {event.step: event.value for event in read.Scalars(name)} for name in tags["scalars"]}
    return scalars, set(tags["images"])


def test_tensorboard_reads_scalars_and_pictures(tmp_path: Path) -> None:
    show(tmp_path, "tensorboard", ROW, RoundRecord(2, seconds=3.0))
    scalars, pictures = events(RunLayout(tmp_path).tensorboard)
    assert scalars["loss/backbone"] == {1: 0.25}
    assert scalars["seconds/round"] == {1: 2.0, 2: 3.0}
    assert scalars["traffic/bytes-up"] == {1: 7.0, 2: 0.0}
    assert scalars["clients/failed"] == {1: 1.0, 2: 0.0}
    assert scalars["quality/fd"] == {2: 3.0}
    assert "quality/tstr" not in scalars
    assert pictures == {"pictures/samples", "pictures/overview"}


def test_a_round_that_is_run_again_is_shown_once(tmp_path: Path) -> None:
    show(tmp_path, "tensorboard", ROW, RoundRecord(2, seconds=3.0))
    show(tmp_path, "tensorboard", RoundRecord(2, seconds=5.0))
    assert events(RunLayout(tmp_path).tensorboard)[0]["seconds/round"] == {1: 2.0, 2: 5.0}


def test_a_run_writes_what_tensorboard_reads(tmp_path: Path) -> None:
    folder = runners.run(small(tmp_path / "out", runner="local", tracker="tensorboard")).folder
    scalars, pictures = events(RunLayout(folder).tensorboard)
    assert scalars["clients/answered"] == {1: 3.0, 2: 3.0}
    assert set(scalars["loss/client"]) == {1, 2}
    assert set(scalars["quality/fd"]) == {2}
    assert {"pictures/overview", "pictures/samples", "pictures/curves", "pictures/client-0"} <= pictures


# MLflow and SQLAlchemy themselves use what they call deprecated, and leave connections to the garbage collector.
@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_them_in_a_data_base_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed (pip install mlflow)")
    show(tmp_path, "mlflow", ROW, RoundRecord(2, seconds=3.0))
    folder = RunLayout(tmp_path).mlflow
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name(tracker.PROJECT).experiment_id])
    assert [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "seconds/round")] == [
        (1, 2.0),
        (2, 3.0),
    ]
    assert run.data.params["cut_ratio"] == "0.2"
    assert run.info.status == "FINISHED"
    assert [path.name for path in folder.rglob("*.png")] == ["samples.png"], "clients' own images stay out of it"


@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_them_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    pytest.importorskip("wandb", reason="wandb is not installed (pip install wandb)")
    show(tmp_path, "wandb", ROW, RoundRecord(2, seconds=3.0))
    (folder,) = RunLayout(tmp_path).wandb.glob("offline-run-*")
    (record,) = folder.glob("*.wandb")
    deadline = time.monotonic() + 60
    # A process of its own writes the file.
    while b"loss/backbone" not in (written := record.read_bytes()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for private in (sys.executable, socket.gethostname()):
        assert private.encode() not in written, "nothing of the machine"
    assert b"memory_percent" not in written
    assert not list(folder.rglob("requirements.txt"))
    assert [path.name.partition("_")[0] for path in folder.rglob("*.png")] == ["samples"]


class Recorded(Tracker):
    """A tracker that remembers how it was closed."""

    closed: ClassVar[list[bool]] = []

    def close(self, *, failed: bool) -> None:
        self.closed.append(failed)


def test_a_run_that_fails_is_shown_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKERS, "none", Recorded)
    monkeypatch.setattr(Recorded, "closed", [])
    config = small(tmp_path / "out", runner="local", num_rounds=1, tracker="none")
    with monkeypatch.context() as patch:
        patch.setattr(CollaFuseClient, "on_train", refuse)
        with pytest.raises(RunFailed):
            runners.run(config)
    assert Recorded.closed == [True]
    runners.run(replace(config, run=replace(config.run, output=str(tmp_path / "again"))))
    assert Recorded.closed == [True, False]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_mark_of_a_run_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed (pip install mlflow)")
    with pytest.raises(KeyboardInterrupt), open_tracker(config_of("mlflow"), RunLayout(tmp_path), 1):
        raise KeyboardInterrupt
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{RunLayout(tmp_path).mlflow / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name(tracker.PROJECT).experiment_id])
    assert run.info.status == "FAILED"


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_what_is_not_installed_is_one_line_before_anything_is_trained(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, TRACKERS[name].module, None)
    with pytest.raises(SettingError, match=rf"^`tracker` = '{name}' is not allowed: .*`pip install {name}`"):
        check_tracker(config_of(name))
    check_tracker(config_of("none"))


def test_nothing_of_them_is_imported_unless_it_is_chosen() -> None:
    code = "import sys, collafuse_flwr.server_app; print({'tensorboard', 'mlflow', 'wandb'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_none_shows_nothing(tmp_path: Path) -> None:
    show(tmp_path, "none", ROW)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
