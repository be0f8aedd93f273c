"""What the commands on finished runs say to that of a GAN, and what such a run's summary shows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.runs.loaded_run import FinishedRun
from simulations import generate, runners
from simulations.preflight import preflight
from tests.commands import refused
from tests.small_runs import small

GAN = {
    "strategy": "huscf_gan",
    "num_rounds": 1,
    "gan.width": 2,
    "gan.batch_size": 16,
    "train.local_epochs": 0.5,
    "evaluation.num_samples": 24,
    "gan.transport": "in_process",
    "runner": "local",
    "evaluation.tstr": "none",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runners.run(small(tmp_path_factory.mktemp("gan"), **GAN)).folder


def test_images_are_not_made_as_by_diffusion_models(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["generate", f"run={finished}", "client=1", f"output={tmp_path / 'images'}"])
    assert generate.main() == 2
    assert refused(capsys).endswith("is not allowed: a run of diffusion models, not of huscf_gan")


def test_neither_is_it_attacked_as_one(finished: Path) -> None:
    with pytest.raises(SettingError, match=r"a run of diffusion models, not of huscf_gan$"):
        FinishedRun.of(finished)


def test_the_summary_promises_nothing(finished: Path) -> None:
    """What leaves a client is no noised image: there is no ratio of signal to noise, and nothing bounds the bits."""
    rows = json.loads((finished / "metrics.jsonl").read_text().splitlines()[0])
    assert all(client["generator_loss"] > 0 for client in rows["clients"].values())
    for client in json.loads((finished / "summary.json").read_text())["clients"]:
        assert client["snr_db"] is None
        assert client["dp_epsilon"] is None
    assert {path.name for path in (finished / "pictures").iterdir()} >= {"curves.png", "overview.png", "samples.png"}


def test_images_of_other_sizes_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^`image_size` = 10 is not allowed: a multiple of 4 pixels from 8"):
        preflight(small(tmp_path, **(GAN | {"image_size": 10})))
