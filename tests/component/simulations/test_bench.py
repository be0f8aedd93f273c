"""The plain loop is a fair yardstick: it makes the app's updates, all of them and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collafuse_flwr.core.errors import SettingError
from simulations.bench import overhead
from simulations.bench.configs import DEFAULTS, configure
from simulations.runners.local import run_local
from tests.small_runs import small

GIVEN: dict[str, Any] = DEFAULTS | {"rounds": 1, "resources.client_threads": 1, "resources.server_threads": 1}


@pytest.mark.parametrize(
    "more",
    [{}, {"train.random_hflip": True, "train.cfg_dropout": 0.3, "train.local_epochs": 0.5}],
    ids=["", "flip, drop"],
)
def test_app_and_plain_loop_make_the_same_updates_and_the_same_weights(tmp_path: Path, more: dict[str, Any]) -> None:
    config = small(tmp_path, num_rounds=4, runner="local", cut__client_ratios=[0.3, 0.1, 0.6], **more)
    run_local(config, server_app=overhead.APP)
    report = json.loads((tmp_path / "overhead.json").read_text())
    assert [lap["round"] for lap in report["laps"]] == [1, 2, 3]
    for lap in report["laps"]:
        assert lap["app_updates"] == lap["plain_updates"] > 0
    assert report["weight_difference"] == 0.0


def test_the_command_measures_shows_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "overhead.json"
    arguments = "rounds=1 runners=local sets=digits data.max_images=120 num_supernodes=2 train.local_epochs=0.5"
    arguments += " server.batch_size=16"
    status = overhead.main(
        [*arguments.split(), "resources.client_threads=1", "resources.server_threads=1", f"output={output}"]
    )
    assert status == 0
    assert "image updates per second" in capsys.readouterr().out
    (case,) = json.loads(output.read_text())["cases"]
    assert (case["set"], case["runner"], case["weight_difference"]) == ("digits", "local", 0.0)
    (lap,) = case["laps"][1:]
    ratio = lap["plain_seconds"] / lap["app_seconds"]
    assert case["ratio"] == pytest.approx({"median": ratio, "min": ratio, "max": ratio})
    assert case["settings"]["evaluation.every"] == 0
    assert case["settings"]["num_rounds"] == len(case["laps"]) + 1


def test_the_synthetic_set_is_a_data_set(tmp_path: Path) -> None:
    config = configure("images32", "ray", GIVEN, tmp_path)
    images = np.load(config.data.path)["images"]
    assert images.shape == (config.data.max_images, 32, 32, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("client.init_from", "backbone"), ("upload.noise", "resampled"), ("rounds", 0), ("runner", "ray"), ("no_such", 1)],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(SettingError, match=name):
        configure("digits", "local", GIVEN | {name: value}, tmp_path)


@pytest.mark.parametrize("setting", ["sets=cifar", "runners=flwr"])
def test_a_mistake_is_refused_in_one_line(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert overhead.main([setting]) == 2
    assert capsys.readouterr().err.startswith(f"error: `{setting.partition('=')[0]}`")
