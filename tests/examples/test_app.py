"""The example of an app of one's own, with the settings that its pyproject.toml has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from flwr.cli.config_utils import load_and_validate
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


def test_it_has_the_form_of_flowers_examples() -> None:
    head, text = (APP / "README.md").read_text().removeprefix("---\n").split("---\n", 1)
    assert {name: bool(values) for name, values in yaml.safe_load(head).items()} == dict.fromkeys(
        ("tags", "dataset", "framework"), True
    )
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "## Install dependencies and project",
        "## Run with the Simulation Engine",
        "## Run with the Deployment Engine",
    ]
    config, warnings = load_and_validate(APP / "pyproject.toml", check_module=False)
    assert warnings == []
    # What the page says of a run is what it starts from.
    assert config["tool"]["flwr"]["app"]["config"]["num-supernodes"] == 3
    files = set(re.findall(r"`(stripes/\w+\.py)`", text))
    assert files == {f"stripes/{path.name}" for path in (APP / "stripes").glob("*.py")} - {"stripes/__init__.py"}
