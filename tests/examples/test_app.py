"""The example of an app of one's own, with the settings that its pyproject.toml has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flwr.common.config import get_fused_config_from_dir

from collafuse_flwr.config.config import Config
from collafuse_flwr.runs.loaded_run import FinishedRun
from simulations.runners.local import run_local

APP = Path(__file__).resolve().parents[2] / "examples" / "app"


def test_its_server_uses_the_strategy_with_its_own_network_images_and_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(APP))
    config = Config.from_flat(get_fused_config_from_dir(APP, {"output": str(tmp_path / "run"), "num-rounds": 2}))
    result = run_local(config, server_app="stripes.server_app:app", client_app="stripes.client_app:app")
    said = capsys.readouterr().out.splitlines()
    errors = [float(line.split()[-1]) for line in said if "the backbone is off by" in line]
    # Before training it is as far off as a guess.
    assert errors[0] > 0.5
    assert len(errors) == 3
    assert errors[2] < 0.85 * errors[0]
    assert json.loads((result.folder / "summary.json").read_text())["pooled"]["num_samples"] == 60
    assert type(FinishedRun.of(result.folder).backbone).__name__ == "Denoiser"
    # It is no network of diffusers, and promises none.
    assert not list(result.folder.rglob("model_index.json"))
