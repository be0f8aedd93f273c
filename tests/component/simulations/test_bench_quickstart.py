"""The bench of FedAvg beside Flower's quickstart: both make the updates that are counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from collafuse_flwr.data.federated import federation_data
from simulations.bench import quickstart
from simulations.bench.quickstart import APP, _config
from simulations.bench.quickstart_app import REPORT
from simulations.runners.local import run_local
from tests.commands import refused

SETTINGS = quickstart.DEFAULTS | {"clients": 2, "epochs": 2, "max_images": 60}


def test_the_command_measures_shows_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "quickstart.json"
    small = ["models=nano", "clients=2", "epochs=1", "rounds=1", "turns=2", "max_images=60"]
    assert quickstart.main([*small, f"output={output}"]) == 0
    assert "image updates per second" in capsys.readouterr().out
    (row,) = json.loads(output.read_text())["rows"]
    assert min(row["ours"], row["quickstart"], row["ratio"]["min"]) > 0
    assert row["ratio"]["min"] <= row["ratio"]["median"] <= row["ratio"]["max"]


def test_all_images_are_passed_over_in_every_round_but_the_first_that_counts(tmp_path: Path) -> None:
    config = _config("nano", SETTINGS, tmp_path, 3)
    run_local(config, server_app=f"{APP}:server", client_app=f"{APP}:app")
    report = json.loads((tmp_path / REPORT).read_text())
    data = federation_data(config.data, 2, config.run.seed)
    assert report["updates"] == 2 * 2 * sum(len(data.client(client).train) for client in range(2))
    assert torch.tensor(report["times"]).diff().gt(0).tolist() == [True] * 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("models=nanno", "`model` = 'nanno' is not allowed: one of nano"),
        ("turns=0", "`turns` = 0 is not allowed: a whole number >= 1"),
        ("step=8", "`step` = 8 is not allowed: no such setting"),
    ],
)
def test_a_mistake_is_refused_in_one_line(wrong: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert quickstart.main([wrong]) == 2
    assert message in refused(capsys)
