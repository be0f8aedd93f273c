"""The split chain as diffusers runs it: equal to the unsplit one by an oracle, and to our sampler with any networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ConfigMixin,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    ModelMixin,
)
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.runtime import Runtime
from collafuse_flwr.diffusion.guidance import cfg_denoiser
from collafuse_flwr.diffusion.pipeline import CollaFusePipeline, Labels, save_index
from collafuse_flwr.diffusion.sampling import sample, sampling_timesteps
from collafuse_flwr.diffusion.schedule import Schedule, cosine, linear, make_schedule
from collafuse_flwr.diffusion.schedulers import Sampler, saved_ddpm, saved_solver
from collafuse_flwr.diffusion.unet import ImageShape, as_denoise, build_network, save_backbone, save_network
from tests.unit.diffusion.oracle import Gaussian

T, CUT = 20, 6
CPU = Runtime(torch.device("cpu"), torch.float32)
CLASSES = ["a", "b", "c"]
SHAPE = ImageShape(1, 8, 3)
SAMPLERS: list[Sampler] = ["ddpm", "ddim", "dpm++"]


class Oracle(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The network that an infinitely long training on Gaussian data would reach."""

    config_name = "config.json"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, schedule_name: str, in_channels: int = 1, sample_size: int = 2) -> None:
        super().__init__()
        self.schedule, self.nothing = make_schedule(schedule_name, T), torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor, class_labels: None) -> Tensor:
        return Gaussian().denoise(self.schedule, "v_prediction")(x, t + 1, class_labels)


@pytest.mark.parametrize("name", ["cosine", "linear", "sigmoid"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "stock"])
def test_cut_anywhere_it_gives_what_the_whole_chain_gives(name: str, sampler: Any) -> None:
    """At every step of it, for every cut, to 1e-5: with an oracle the cut makes no difference."""
    schedule = make_schedule(name, T)
    ddpm = saved_ddpm(schedule, "v_prediction")
    scheduler = ddpm if sampler == "stock" else saved_solver(schedule, sampler, "v_prediction")

    def images(cut: int) -> Tensor:
        networks = (Oracle(name) if cut < T else None, Oracle(name) if cut else None)
        pipeline = quiet(CollaFusePipeline(*networks, scheduler, cut))
        made: Tensor = pipeline(64, generator=torch.Generator().manual_seed(0), output_type="pt").images
        return made

    whole = images(0)
    assert 0 < whole.mean() < 1
    for cut in range(1, T + 1):
        torch.testing.assert_close(images(cut), whole, rtol=0, atol=1e-5)


def test_a_multistep_scheduler_forgets_at_the_cut() -> None:
    """Else the first step of the client would be one by the backbone's estimate as well."""
    schedule = cosine(T)
    pipeline = quiet(pipeline_of(schedule, "dpm++"))
    assert torch.equal(made(pipeline, class_labels=1), made(pipeline, class_labels=1))
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(saved_ddpm(schedule, "v_prediction").config)
    torch.testing.assert_close(made(pipeline, class_labels=1), ours(schedule, "dpm++", [1] * 5), rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [(0, 0), (4, 2)])
def test_it_makes_the_images_of_our_sampler(sampler: Sampler, steps: tuple[int, int]) -> None:
    """To 1e-4 of values in [0, 1], with two networks of different weights."""
    schedule, labels = cosine(T), [0, 1, 2, 1, 0]
    pipeline = quiet(pipeline_of(schedule, sampler, server_steps=steps[0], client_steps=steps[1]))
    expected = ours(schedule, sampler, labels, steps)
    torch.testing.assert_close(made(pipeline, class_labels=labels), expected, rtol=0, atol=1e-4)
    if sampler == "ddpm":
        pipeline.scheduler = saved_ddpm(schedule, "v_prediction")
        torch.testing.assert_close(made(pipeline, class_labels=labels), expected, rtol=0, atol=1e-4)


def test_requested_steps_are_divided_at_the_cut() -> None:
    pipeline = quiet(pipeline_of(cosine(T), "ddim"))
    calls: dict[str, list[int]] = {"backbone": [], "denoiser": []}
    for name, seen in calls.items():
        network = getattr(pipeline, name)
        network.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(int(given[1][0]) + 1))
    made(pipeline, class_labels=0, num_inference_steps=10)
    assert calls == {"backbone": [20, 18, 16, 14, 12, 10, 8], "denoiser": [6, 4, 2]}


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_labels_may_be_left_out_and_guide_where_networks_know_that(weight: float) -> None:
    schedule, shape = cosine(T), ImageShape(1, 8, 4, null=True)
    given: dict[str, Any] = {"shape": shape, "null_label": True, "guidance_scale": weight}
    pipeline = quiet(pipeline_of(schedule, "ddim", **given))
    expected = ours(schedule, "ddim", [2] * 5, shape=shape, weight=weight)
    torch.testing.assert_close(made(pipeline, class_labels=2), expected, rtol=0, atol=1e-4)
    expected = ours(schedule, "ddim", None, shape=shape)
    torch.testing.assert_close(made(pipeline), expected, rtol=0, atol=1e-4)


def test_attributes_reach_a_network_that_is_conditioned_on_them_and_no_other() -> None:
    schedule, shape = cosine(T), ImageShape(1, 8, 0, num_attributes=3)
    networks = build_network("nano", ImageShape(1, 8, 0), 0, "backbone"), build_network("nano", shape, 0, "client")
    pipeline = CollaFusePipeline(*networks, saved_solver(schedule, "ddim", "v_prediction"), CUT, CLASSES)
    one, other = (made(quiet(pipeline), class_labels=row) for row in ([0, 1, 1], [[1, 0, 0]] * 5))
    assert not torch.equal(one, other)
    with pytest.raises(SettingError, match=r"^`class_labels` = \[0, 1\] is not allowed: 3 attributes, each 0 or 1, "):
        pipeline(class_labels=[0, 1])


def test_it_is_saved_and_loaded_whole(tmp_path: Path) -> None:
    pipeline = quiet(pipeline_of(linear(T), "dpm++", server_steps=4, client_steps=2))
    pipeline.save_pretrained(tmp_path)
    loaded = quiet(CollaFusePipeline.from_pretrained(tmp_path))
    assert (loaded.config.cut_step, loaded.config.class_names) == (CUT, CLASSES)
    assert torch.equal(made(loaded, class_labels=2), made(pipeline, class_labels=2))
    assert not list(tmp_path.rglob("*.bin")), "no pickles"


@pytest.mark.parametrize("cut", [0, CUT, T])
def test_an_index_loads_networks_from_where_they_are(tmp_path: Path, cut: int) -> None:
    schedule, backbone, denoiser = cosine(T), tmp_path / "server" / "backbone", tmp_path / "clients" / "3" / "denoiser"
    save_backbone(build_network("nano", SHAPE, 0, "backbone"), backbone, schedule, "v_prediction")
    save_network(build_network("nano", SHAPE, 0, "client"), denoiser, schedule, "v_prediction")
    save_index(
        denoiser.parent,
        {"backbone": backbone / "unet" if cut < T else None, "denoiser": denoiser / "unet" if cut else None},
        saved_solver(schedule, "dpm++", "v_prediction"),
        cut_step=cut,
        class_names=CLASSES,
    )
    pipeline = quiet(CollaFusePipeline.from_pretrained(denoiser.parent))
    expected = quiet(pipeline_of(schedule, "dpm++", cut=cut))
    assert torch.equal(made(pipeline, class_labels=1), made(expected, class_labels=1))
    assert str(tmp_path) not in (denoiser.parent / "model_index.json").read_text()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2, "weights are there once"
    half = CollaFusePipeline.from_pretrained(denoiser.parent, dtype=torch.bfloat16)
    assert {network.dtype for network in (half.backbone, half.denoiser) if network} == {torch.bfloat16}
    assert made(quiet(half), class_labels=1).isfinite().all()


def test_the_backbone_alone_is_a_pipeline_of_diffusers(tmp_path: Path) -> None:
    """Its own networks take labels as diffusers' do: `DDPMPipeline` gives none, so they are fixed beforehand."""
    schedule = cosine(T)
    for number, shape in enumerate((ImageShape(1, 8, 0), SHAPE)):
        folder = tmp_path / str(number)
        save_backbone(build_network("nano", shape, 0, "backbone"), folder, schedule, "v_prediction")
        pipeline = quiet(DDPMPipeline.from_pretrained(folder))
        assert isinstance(pipeline.scheduler, DDPMScheduler)
        assert json.loads((folder / "model_index.json").read_text())["unet"] == ["diffusers", "UNet2DModel"]
        given: dict[str, Any] = {"batch_size": 3, "num_inference_steps": T, "output_type": "np"}
        if shape.num_classes:
            with pytest.raises(ValueError, match="class_labels should be provided"):
                pipeline(**given)
            call = pipeline.unet.forward
            pipeline.unet.forward = lambda x, t, call=call: call(x, t, class_labels=torch.tensor([0, 1, 2]))
        assert pipeline(**given).images.shape == (3, 8, 8, 1)
    save_backbone(torch.nn.Conv2d(1, 1, 1), tmp_path / "custom", schedule, "v_prediction")
    assert not (tmp_path / "custom" / "model_index.json").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "`class_labels` = None is not allowed: a class in 0..2, for all images or for each of the 5"),
        ({"class_labels": 3}, "`class_labels` = 3 is not allowed: a class in 0..2"),
        ({"class_labels": [0, 1]}, "`class_labels` = [0, 1] is not allowed: a class in 0..2"),
        ({"class_labels": torch.tensor([-1] * 5)}, "`class_labels` = [-1, -1, -1, -1, -1] is not allowed"),
        ({"class_labels": 1, "guidance_scale": 2}, "`guidance_scale` = 2 is not allowed: 1: these networks know no"),
    ],
)
def test_a_mistake_is_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError) as raised:
        made(quiet(pipeline_of(cosine(T), "ddim")), **given)
    assert str(raised.value).startswith(message)


def test_what_cannot_be_cut_is_refused() -> None:
    pipeline = pipeline_of(cosine(T), "ddim")
    for scheduler in (DDIMScheduler, EulerDiscreteScheduler):
        pipeline.scheduler = scheduler(num_train_timesteps=T)
        with pytest.raises(
            SettingError, match=rf"^`scheduler` = '{scheduler.__name__}' is not allowed: one that takes"
        ):
            pipeline(class_labels=1)
    solver = saved_solver(cosine(T), "ddim", "v_prediction")
    with pytest.raises(SettingError, match=r"^`denoiser` = None is not allowed: a network, as `cut_step` = 6 of 20"):
        CollaFusePipeline(pipeline.backbone, None, solver, CUT)
    with pytest.raises(SettingError, match=r"^`cut_step` = 21 is not allowed: 0..20, the steps of the scheduler"):
        CollaFusePipeline(pipeline.backbone, None, solver, T + 1)
    plain = CollaFusePipeline(build_network("nano", ImageShape(1, 8, 0), 0, "backbone"), None, solver)
    with pytest.raises(SettingError, match=r"^`class_labels` = 1 is not allowed: None: these networks know no classes"):
        plain(class_labels=1)


def test_images_come_as_diffusers_gives_them() -> None:
    pipeline = quiet(pipeline_of(cosine(T), "ddim", server_steps=1, client_steps=1))
    (picture,) = pipeline(class_labels=1).images
    assert (picture.size, picture.mode) == ((8, 8), "L")
    (array,) = pipeline(2, class_labels=1, output_type="np", return_dict=False)
    assert array.shape == (2, 8, 8, 1)


def pipeline_of(
    schedule: Schedule, sampler: Sampler, *, cut: int = CUT, shape: ImageShape = SHAPE, **config: Any
) -> CollaFusePipeline:
    networks = [build_network("nano", shape, 0, name).eval() for name in ("backbone", "client")]
    backbone, denoiser = networks[0] if cut < T else None, networks[1] if cut else None
    return CollaFusePipeline(
        backbone, denoiser, saved_solver(schedule, sampler, "v_prediction"), cut, CLASSES, **config
    )


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def made(pipeline: Any, **given: Any) -> Tensor:
    images: Tensor = pipeline(5, generator=torch.Generator().manual_seed(0), output_type="pt", **given).images
    return images


def ours(
    schedule: Schedule,
    sampler: Sampler,
    labels: Labels,
    steps: tuple[int, int] = (0, 0),
    shape: ImageShape = SHAPE,
    weight: float = 1.0,
) -> Tensor:
    """The same images by `sample`, with noise from the same generator."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 1, 8, 8, generator=generator)
    halves = sampling_timesteps(T, CUT, steps[0]), sampling_timesteps(CUT, 0, steps[1])
    for name, grid in zip(("backbone", "client"), halves, strict=True):
        x = sample(
            schedule,
            "v_prediction",
            cfg_denoiser(as_denoise(build_network("nano", shape, 0, name).eval(), CPU), weight),
            x,
            grid,
            sampler=sampler,
            labels=None if labels is None else torch.as_tensor(labels),
            noise=lambda _, size: torch.randn(size, generator=generator),
        )
    return (x / 2 + 0.5).clamp(0, 1)
