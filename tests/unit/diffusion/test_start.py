"""Networks that start from one that was trained before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import nn

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.diffusion.schedule import Schedule, cosine, linear
from collafuse_flwr.diffusion.start import BACKBONE, LABEL_WEIGHTS, load_start
from collafuse_flwr.diffusion.unet import WEIGHTS, ImageShape, build_network, save_network

SHAPE = ImageShape(channels=1, size=8, num_classes=3)
SCHEDULE = cosine(20)


def network(model: str = "nano", shape: ImageShape = SHAPE, seed: int = 0) -> nn.Module:
    return build_network(model, shape, seed, "backbone")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A network's folder as a run writes it."""
    folder = tmp_path / "run" / BACKBONE
    save_network(network(seed=1), folder, SCHEDULE, "v_prediction")
    return folder


@pytest.mark.parametrize("place", [".", "unet", "../.."])
def test_the_weights_are_those_of_the_folder_however_it_is_named(trained: Path, place: str) -> None:
    start = load_start((trained / place).resolve(), network(), SCHEDULE, "v_prediction")
    expected = network(seed=1).state_dict()
    assert start.keys() == expected.keys()
    assert all(torch.equal(start[name], value) for name, value in expected.items())


def test_a_pipeline_of_plain_diffusers_is_a_start(tmp_path: Path) -> None:
    unet = UNet2DModel(**cast(Any, network(shape=ImageShape(1, 8, 0))).config)
    unet.half().save_pretrained(tmp_path / "unet")
    DDPMScheduler(1000, beta_schedule="linear", prediction_type="epsilon").save_pretrained(tmp_path / "scheduler")
    start = load_start(tmp_path, network(), linear(1000), "epsilon")
    assert {value.dtype for value in start.values()} == {torch.float32}
    assert all(torch.equal(start[name], value.float()) for name, value in unet.state_dict().items())


def test_a_folder_without_a_process_is_looked_up_nowhere(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path that is not there would be the name of a repository on a hub."""
    shutil.rmtree(trained / "scheduler")
    monkeypatch.chdir(trained.parent)
    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_download", lambda *_, **__: pytest.fail("went online"))
    with pytest.raises(SettingError, match="whose diffusion process can be read"):
        load_start(Path(trained.name), network(), SCHEDULE, "v_prediction")


@pytest.mark.parametrize("classes", [0, 5])
def test_labels_are_learnt_anew_where_they_are_others(trained: Path, classes: int) -> None:
    start = load_start(trained, network(shape=ImageShape(1, 8, classes)), SCHEDULE, "v_prediction")
    assert not [name for name in start if name.startswith(LABEL_WEIGHTS)]
    assert start.keys() == {name for name in network().state_dict() if not name.startswith(LABEL_WEIGHTS)}


@pytest.mark.parametrize(
    ("own", "schedule", "prediction", "reason"),
    [
        (network("tiny"), SCHEDULE, "v_prediction", "of the same network as `model` and of as many channels: conv_in"),
        (network(shape=ImageShape(3, 8, 3)), SCHEDULE, "v_prediction", r"conv_in.weight is \(16, 1, 3, 3\) there"),
        (network(), cosine(30), "v_prediction", "of `diffusion.timesteps` = 30 steps, not 20"),
        (network(), linear(20), "v_prediction", "of the noise schedule `diffusion.schedule` = linear"),
        (network(), SCHEDULE, "epsilon", "`diffusion.prediction_type` = epsilon, not v_prediction"),
    ],
)
def test_a_network_of_another_kind_or_process_is_refused(
    trained: Path, own: nn.Module, schedule: Schedule, prediction: str, reason: str
) -> None:
    with pytest.raises(SettingError, match=f"^`start_from` = .*{reason}"):
        load_start(trained, own, schedule, prediction)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: shutil.rmtree(folder / "unet"), "a folder with unet/diffusion_pytorch_model.safetensors in it"),
        (lambda folder: shutil.rmtree(folder / "scheduler"), "whose diffusion process can be read from scheduler/"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"\0" * 100), "whose weights can be read"),
        (
            lambda folder: save_file(
                load_file(folder / WEIGHTS) | {"conv_in.bias": torch.full((16,), torch.nan)}, folder / WEIGHTS
            ),
            "whose weights are finite",
        ),
        (
            lambda folder: save_file(
                {n: v for n, v in load_file(folder / WEIGHTS).items() if n != "conv_in.bias"}, folder / WEIGHTS
            ),
            r"conv_in.bias is missing there, \(16,\) here",
        ),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(trained: Path, spoil, reason: str) -> None:  # type: ignore[no-untyped-def]
    spoil(trained)
    with pytest.raises(SettingError, match=f"^`start_from` = .*{reason}") as refused:
        load_start(trained, network(), SCHEDULE, "v_prediction")
    assert "\n" not in str(refused.value)
