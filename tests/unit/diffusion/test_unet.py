"""Denoisers by name: built for the images, the same in every process, and readable by diffusers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors.torch import load_file
from torch import Tensor, nn

from collafuse_flwr.config.config import Config, setting_help
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.runtime import Runtime
from collafuse_flwr.diffusion.parametrization import Prediction
from collafuse_flwr.diffusion.schedule import cosine, linear
from collafuse_flwr.diffusion.unet import PRESETS, ImageShape, as_denoise, build_network, save_network

CPU = Runtime(torch.device("cpu"), torch.float32)
TINY = ImageShape(channels=1, size=8, num_classes=3)
#: The side must be a multiple of this: it is halved between the resolutions.
MULTIPLE = {"nano": 2, "tiny": 2, "small": 4, "base": 4, "paper": 8}


def weights(network: nn.Module) -> Tensor:
    return torch.cat([value.flatten() for value in network.state_dict().values()])


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("shape", [ImageShape(1, 8, 0), ImageShape(3, 16, 10)], ids=str)
def test_a_preset_maps_images_to_images(name: str, shape: ImageShape) -> None:
    network = build_network(name, shape, 0, "backbone")
    x, t = torch.randn(2, shape.channels, shape.size, shape.size), torch.tensor([1, 100])
    labels = torch.tensor([0, shape.num_classes - 1]) if shape.num_classes else None
    with torch.no_grad():
        output = as_denoise(network, CPU)(x, t, labels)
    assert output.shape == x.shape
    assert output.isfinite().all()
    assert (network.class_embedding is None) == (shape.num_classes == 0)


def test_the_presets_are_those_that_settings_know() -> None:
    for name in PRESETS:
        Config.from_flat({"model": name, "client.model": name})
    with pytest.raises(SettingError, match=f"one of {', '.join(PRESETS)}, or"):
        Config.from_flat({"model": "huge"})


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_as_many_parameters_as_its_setting_says(name: str) -> None:
    said = re.search(rf"{name} \(([\d.]+) M", setting_help()["model"])
    assert said is not None
    count = sum(p.numel() for p in build_network(name, ImageShape(1, 16, 3), 0, "backbone").parameters())
    assert f"{count / 1e6:.1f}" == said[1]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_side_that_cannot_be_halved_is_refused(name: str) -> None:
    multiple = MULTIPLE[name]
    for size in range(multiple + 1, 2 * multiple):
        with pytest.raises(SettingError) as caught:
            build_network(name, ImageShape(1, size, 0), 0, "backbone")
        assert str(caught.value) == (
            f"`image_size` = {size} is not allowed: a multiple of {multiple} for `model` = {name} "
            f"(the images have {size} pixels a side)"
        )


def test_an_unknown_network_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        SettingError, match=r"^`model` = 'huge' .*: one of nano, tiny, small, base, paper, or package.module:"
    ):
        build_network("huge", TINY, 0, "backbone")


def test_the_same_seed_and_name_give_the_same_weights_whatever_was_drawn_before() -> None:
    first = weights(build_network("tiny", TINY, 3, "client 1"))
    torch.randn(7)
    assert torch.equal(weights(build_network("tiny", TINY, 3, "client 1")), first)


@pytest.mark.parametrize(("seed", "name"), [(4, "client 1"), (3, "client 2"), (3, "backbone")])
def test_another_seed_or_name_gives_other_weights(seed: int, name: str) -> None:
    first = build_network("tiny", TINY, 3, "client 1").state_dict()
    other = build_network("tiny", TINY, seed, name).state_dict()
    drawn = [key for key, value in first.items() if value.ndim > 1]
    assert len(drawn) > 10
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build_network("tiny", TINY, 0, "backbone")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("factory", ["Net", "family.Net"])
def test_any_module_may_be_a_denoiser(factories: str, factory: str) -> None:
    network: Any = build_network(f"{factories}:{factory}", TINY, 0, "backbone")
    assert network.shape == TINY
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(as_denoise(network, CPU)(x, torch.tensor([1, 2]), None), x * network.scale)
    again: Any = build_network(f"{factories}:{factory}", TINY, 0, "backbone")
    other: Any = build_network(f"{factories}:{factory}", TINY, 0, "client 0")
    assert torch.equal(again.scale, network.scale)
    assert not torch.equal(other.scale, network.scale)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no_such_package:Net", "can be imported .*no_such_package"),
        ("somebodys:missing", "can be imported .*missing"),
        ("somebodys.deeper:Net", "can be imported"),
        (":Net", "both sides"),
        (".somebodys:Net", "can be imported"),
        ("somebodys:not a name", "can be imported"),
        (":", "can be imported"),
        ("somebodys:nothing", "must be callable, not NoneType"),
        ("somebodys:", "both sides of the colon are needed"),
        ("somebodys:print_it", "must return a torch module, not NoneType"),
        ("somebodys:Halved", r"must return images of shape \(2, 1, 8, 8\), not \(2, 1, 4, 8\)"),
        ("somebodys:Unlabelled", r"must take images of shape \(2, 1, 8, 8\), steps \(2,\) and `class_labels`"),
    ],
)
def test_a_path_that_leads_to_no_network_is_refused(factories: str, path: str, reason: str) -> None:
    with pytest.raises(SettingError, match=rf"^`model` = '{path}' is not allowed: .*{reason}"):
        build_network(path, TINY, 0, "backbone")


@pytest.mark.parametrize(("factory", "error"), [("broken", RuntimeError), ("misspelt", AttributeError)])
def test_a_mistake_in_somebodys_factory_is_shown_as_what_it_is(
    factories: str, factory: str, error: type[Exception]
) -> None:
    """A traceback that leads to it, and not the claim that the factory cannot be imported."""
    with pytest.raises(error, match=r"its own mistake|Liner"):
        build_network(f"{factories}:{factory}", TINY, 0, "backbone")


class Answer:
    """Like the output of diffusers' networks."""

    def __init__(self, sample: Tensor) -> None:
        self.sample = sample


class Recorder(nn.Module):
    """Notes what it is called with."""

    def __init__(self, wrapped: bool, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.wrapped, self.dtype = wrapped, dtype
        self.calls: list[tuple[Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor | Answer:
        self.calls.append((t, class_labels))
        output = (2 * x).to(self.dtype)
        return Answer(output) if self.wrapped else output


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_count_steps_from_0_and_answer_in_float32(wrapped: bool, dtype: torch.dtype) -> None:
    network = Recorder(wrapped, dtype)
    x, t, labels = torch.ones(2, 1, 4, 4), torch.tensor([1, 100]), torch.tensor([2, 0])
    output = as_denoise(network, CPU)(x, t, labels)
    assert torch.equal(output, 2 * x)
    assert output.dtype is torch.float32
    assert network.calls[0][0].tolist() == [0, 99]
    assert network.calls[0][1] is labels
    assert t.tolist() == [1, 100], "the caller's own is left as it is"


def test_a_network_runs_in_the_precision_of_the_runtime() -> None:
    network, shape = build_network("tiny", ImageShape(1, 8, 0), 0, "backbone"), (2, 1, 8, 8)
    x, t = torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 50])
    with torch.no_grad():
        exact, coarse = (
            as_denoise(network, Runtime(torch.device("cpu"), dtype))(x, t, None)
            for dtype in (torch.float32, torch.bfloat16)
        )
    assert coarse.dtype is torch.float32
    assert torch.equal(coarse, coarse.bfloat16().float())
    assert not torch.equal(exact, exact.bfloat16().float())
    assert (coarse - exact).abs().max() < 0.1


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_saved_network_is_read_by_diffusers(tmp_path: Path, prediction: Prediction) -> None:
    """With a scheduler that has our alpha_bar, shifted by one step, and our prediction."""
    network, schedule = build_network("tiny", TINY, 0, "backbone"), linear(50)
    save_network(network, tmp_path, schedule, prediction)
    unet = UNet2DModel.from_pretrained(tmp_path / "unet")
    x, labels = torch.randn(2, 1, 8, 8), torch.tensor([0, 2])
    with torch.no_grad():
        expected = as_denoise(network.eval(), CPU)(x, torch.tensor([1, 50]), labels)
        assert torch.equal(unet(x, torch.tensor([0, 49]), class_labels=labels).sample, expected)
    scheduler = DDPMScheduler.from_pretrained(tmp_path / "scheduler")
    assert scheduler.config.prediction_type == prediction
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), schedule.alpha_bar[1:], rtol=1e-4, atol=1e-7)
    assert not list(tmp_path.rglob("*.bin")), "no pickles"


def test_a_saved_network_replaces_the_one_before(tmp_path: Path) -> None:
    for seed in (0, 1):
        save_network(build_network("tiny", TINY, seed, "backbone"), tmp_path, cosine(10), "epsilon")
    unet = UNet2DModel.from_pretrained(tmp_path / "unet")
    assert torch.equal(weights(unet), weights(build_network("tiny", TINY, 1, "backbone")))


def test_any_other_module_is_saved_as_safetensors(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    save_network(network, tmp_path, cosine(10), "epsilon")
    saved = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert saved.keys() == network.state_dict().keys()
    assert all(torch.equal(saved[name], value) for name, value in network.state_dict().items())
    assert DDPMScheduler.from_pretrained(tmp_path / "scheduler").config.num_train_timesteps == 10


def test_tied_weights_are_saved_once(tmp_path: Path) -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    save_network(nn.Sequential(first, second), tmp_path, cosine(10), "epsilon")
    saved = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert len(saved) == 3
