"""FID, KID and CLIP-FID of a run: in its summary where the settings name weights, and nowhere else."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.runtime import threads
from collafuse_flwr.data.federated import FederationData, federation_data
from collafuse_flwr.evaluation import classifier_cache
from collafuse_flwr.evaluation.classifier import train_classifier
from collafuse_flwr.evaluation.distances import frechet_distance, kernel_distance
from collafuse_flwr.evaluation.evaluator import SampleEvaluator
from collafuse_flwr.evaluation.features import extract_features
from collafuse_flwr.evaluation.pretrained import PretrainedFeatures, pretrained_networks
from collafuse_flwr.runs.console import print_summary
from collafuse_flwr.runs.run_dir import open_run, read_config
from collafuse_flwr.runs.summary import summarize_run
from simulations import runners
from tests.small_runs import federate, small
from tests.strict_json import plain, strict
from tests.weights import write_clip, write_inception

#: Inception takes an eighth of a second for an image.
FEW: dict[str, Any] = {
    "num_supernodes": 2,
    "partition": "iid",
    "data.max_images": 20,
    "evaluation.num_samples": 6,
    "num_rounds": 1,
}
NAMES = ("fid", "kid", "clip_fid")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    inception, clip = write_inception(folder.parent), write_clip(folder.parent)
    config = small(
        folder,
        model="nano",
        evaluation__tstr="none",
        evaluation__inception_weights=inception,
        evaluation__clip_weights=clip,
        **FEW,
    )
    open_run(config, folder)
    federate(config)
    return folder


@pytest.fixture(scope="module")
def measured(folder: Path) -> tuple[dict[str, Any], Counter[int]]:
    """The summary, and how many images went through the network of each width."""
    seen: Counter[int] = Counter()
    original = PretrainedFeatures.forward

    def watch(self: PretrainedFeatures, images: Tensor) -> Tensor:
        features = original(self, images)
        seen[features.shape[1]] += len(images)
        return features

    with threads(1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(PretrainedFeatures, "forward", watch)
        return summarize_run(folder), seen


@pytest.fixture(scope="module")
def summary(measured: tuple[dict[str, Any], Counter[int]]) -> dict[str, Any]:
    return measured[0]


def data_of(config: Config) -> FederationData:
    return federation_data(config.data, config.run.num_supernodes, config.run.seed)


def test_every_row_has_them(folder: Path, summary: dict[str, Any]) -> None:
    for row in (summary["pooled"], *summary["clients"]):
        assert all(math.isfinite(row[name]) for name in NAMES), row
        assert row["fid"] > 0 < row["clip_fid"]
    # Noise is further from the held-out images than training images are.
    assert 0 < summary["pooled"]["fid_real"] < summary["pooled"]["fid"]
    assert strict((folder / "summary.json").read_text()) == plain(summary)


def test_they_are_the_distances_in_the_features_of_the_networks(folder: Path, summary: dict[str, Any]) -> None:
    config = read_config(folder)
    data, networks, identity = data_of(config), pretrained_networks(config.evaluation), nn.Identity()
    held_out, samples = data.client(1).held_out.images, load_file(folder / "clients" / "1" / "samples.safetensors")
    row = summary["clients"][1]
    real, made = (extract_features(images, networks["inception"]) for images in (held_out, samples["images"]))
    assert row["fid"] == pytest.approx(frechet_distance(real, made, identity), rel=1e-5)
    assert row["kid"] == pytest.approx(kernel_distance(real, made, identity).mean, rel=1e-5)
    assert row["clip_fid"] == pytest.approx(frechet_distance(held_out, samples["images"], networks["clip"]), rel=1e-5)


def test_every_image_goes_through_a_network_once(measured: tuple[dict[str, Any], Counter[int]]) -> None:
    """And, for the FID of real ones, as many training images as there are samples through Inception."""
    summary, seen = measured
    counts = summary["pooled"]["num_samples"], summary["pooled"]["num_held_out"]
    assert counts == (6, 4)
    assert seen == {2048: sum(counts) + counts[0], 512: sum(counts)}


def test_without_weights_nothing_is_called_fid(folder: Path, tmp_path: Path, summary: dict[str, Any]) -> None:
    shutil.copytree(folder, tmp_path / "run")
    settings = json.loads((folder / "config.json").read_text()) | {
        "evaluation.inception_weights": "",
        "evaluation.clip_weights": "",
    }
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
    with threads(1):
        bare = summarize_run(tmp_path / "run")
    for row, full in zip((bare["pooled"], *bare["clients"]), (summary["pooled"], *summary["clients"]), strict=True):
        assert {name for name in full if name not in row} == {*NAMES} | ({"fid_real"} & full.keys())
        assert row == {name: value for name, value in full.items() if name in row}
    assert "FID" not in printed(bare, folder)


def printed(summary: dict[str, Any], folder: Path) -> str:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_summary(summary, folder, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_terminal_shows_what_was_measured_and_of_how_many_images(folder: Path, summary: dict[str, Any]) -> None:
    text = printed(summary, folder)
    assert max(map(len, text.splitlines()[:-1])) <= 80
    rows = [line.split() for line in text.splitlines()]
    pooled = summary["pooled"]
    assert ["client", "samples", "held", "out", "FID", "KID", "CLIP-FID"] in rows
    shown = [f"{pooled['fid']:.2f}", f"{pooled['kid']:.4f}", f"{pooled['clip_fid']:.2f}"]
    assert ["pooled", "6", "4", *shown] in rows
    assert "compare them at equal numbers only" in " ".join(text.split())
    assert f"FID {pooled['fid_real']:.2f}." in text
    fewer = summary | {"pooled": {name: value for name, value in pooled.items() if name != "clip_fid"}}
    assert ["client", "samples", "held", "out", "FID", "KID"] in [
        line.split() for line in printed(fewer, folder).splitlines()
    ]


@pytest.mark.parametrize("setting", ["evaluation.inception_weights", "evaluation.clip_weights"])
def test_the_server_refuses_weights_before_it_makes_anything(tmp_path: Path, setting: str) -> None:
    config = small(tmp_path / "run", runner="local", **{setting: str(tmp_path / "absent")})
    with pytest.raises(SettingError, match=f"`{setting}` = .* there is no file"):
        runners.run(config)
    assert not (tmp_path / "run").exists()


def test_the_judge_never_holds_all_images_as_floats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    largest: list[int] = []
    original = torch.Tensor.to

    def watch(self: Tensor, *arguments: Any, **named: Any) -> Tensor:
        if self.dtype == torch.uint8:
            largest.append(len(self))
        return original(self, *arguments, **named)

    config = small(tmp_path, data__max_images=300)
    monkeypatch.setattr(classifier_cache, "train_classifier", partial(train_classifier, steps=3))
    monkeypatch.setattr(torch.Tensor, "to", watch)
    judge = SampleEvaluator.trained_on(data_of(config), config.evaluation, torch.device("cpu"), {}, cache=tmp_path)
    assert judge.classifier.num_features == 64
    assert max(largest) <= 128
