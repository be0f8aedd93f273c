"""The pipelines of runs that are cut at an end, average networks, or are conditioned on attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import collafuse_flwr as cf
from collafuse_flwr.core.errors import SettingError
from simulations import runners
from simulations.export import export
from tests.attributes import NAMES, digits_with_attributes
from tests.small_runs import small

QUICK = {
    "runner": "local",
    "model": "nano",
    "num_supernodes": 2,
    "num_rounds": 1,
    "data.max_images": 40,
    "evaluation.tstr": "none",
}


def run(folder: Path, **settings: Any) -> Any:
    return cf.load(runners.run(small(folder, **QUICK | settings)).folder)


@pytest.mark.parametrize(
    ("strategy", "backbone", "sent"),
    [
        ("local", False, "What left the client: nothing that is made of its images"),
        ("centralized", True, "What left the client: clean images"),
        ("fedavg", False, "What left the client: weights of its network"),
    ],
)
def test_a_chain_of_one_network_has_no_other(tmp_path: Path, strategy: str, backbone: bool, sent: str) -> None:
    made = run(tmp_path / "run", strategy=strategy)
    pipeline = made.pipeline(client=1)
    assert ((pipeline.backbone is not None), (pipeline.denoiser is not None)) == (backbone, not backbone)
    images = pipeline(2, class_labels=[0, 9], generator=torch.manual_seed(0), output_type="pt").images
    assert images.shape == (2, 1, 8, 8)
    card = (made.export(tmp_path / "hub", client=1) / "README.md").read_text()
    assert sent in card
    assert ("`backbone` takes" in card, "`denoiser` takes" in card) == (backbone, not backbone)
    assert ("nothing is guaranteed for what was released" in card) == (strategy != "local")


def test_attributes_have_names_and_may_be_left_out(tmp_path: Path) -> None:
    with digits_with_attributes():
        given = {"data.conditioning": "attributes", "train.cfg_dropout": 0.2, "upload.share_labels": False}
        made = run(tmp_path / "run", **given)
        pipeline = made.pipeline(client=0)
    assert pipeline.config.class_names == list(NAMES)
    pipeline.set_progress_bar_config(disable=True)
    one, other, plain = (
        pipeline(2, row, torch.Generator().manual_seed(0), output_type="pt").images
        for row in ([0, 1, 0, 0, 1], [1, 0, 0, 0, 0], None)
    )
    assert not torch.equal(one, other)
    assert not torch.equal(one, plain)


def test_a_gan_and_a_network_that_diffusers_has_not_are_refused(tmp_path: Path) -> None:
    gan = runners.run(
        small(
            tmp_path / "gan",
            strategy="fedgan",
            **{"gan.width": 2, "gan.batch_size": 8, "train.local_epochs": 0.5},
            **QUICK | {"model": "tiny"},
        )
    ).folder
    custom = runners.run(
        small(tmp_path / "own", **QUICK | {"model": "examples.diffusion_network.residual:residual"})
    ).folder
    for folder, allowed in (
        (gan, "a run of diffusion models, not of fedgan"),
        (custom, "a run with networks of diffusers'"),
    ):
        with pytest.raises(SettingError, match=rf"^`run` = .* is not allowed: {allowed}"):
            export(folder, 0, tmp_path / "hub")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gan", "own"]
