"""Denoisers by name: presets over diffusers' `UNet2DModel`, or any module with the same call."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from collafuse_flwr.diffusion.prediction import Denoise, Prediction
from collafuse_flwr.diffusion.schedule import Schedule
from collafuse_flwr.errors import SettingError
from collafuse_flwr.rng import derive_seed
from collafuse_flwr.runtime import Runtime


@dataclass(frozen=True)
class Preset:
    """Width of each resolution, blocks per resolution and where there is self-attention."""

    channels: tuple[int, ...]
    blocks: int = 1
    attention: bool = False


#: `paper` has the width and depth of the authors' U-Net: dim 16, multipliers 1-2-4-8, attention innermost.
PRESETS = {
    "nano": Preset((16, 32)),
    "tiny": Preset((32, 64)),
    "small": Preset((32, 64, 128)),
    "base": Preset((64, 128, 256), blocks=2, attention=True),
    "paper": Preset((16, 32, 64, 128), blocks=2, attention=True),
}


@dataclass(frozen=True)
class ImageShape:
    """What a denoiser sees: channels, the side in pixels, and the number of classes it knows (0: unconditional)."""

    channels: int
    size: int
    num_classes: int


def build_network(model: str, shape: ImageShape, seed: int, name: str) -> nn.Module:
    """A freshly initialised denoiser; the same (seed, name) gives the same weights in any process.

    Args:
        model: a preset, or `package.module:factory`, a callable that takes an `ImageShape` and returns a module which
            is called as `module(x, t, class_labels=labels)`, with t in 0..T-1, and returns a tensor like x, or an
            object that has it as `.sample`.
        shape: channels, image side and classes.
        seed: the run's seed.
        name: whose network this is.

    Raises:
        SettingError: `model` is unknown, or does not fit the image size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "init", name))
        if ":" in model:
            return _custom(model, shape)
        if model not in PRESETS:
            raise SettingError("model", model, f"one of {', '.join(PRESETS)}, or package.module:factory")
        return _unet(model, PRESETS[model], shape)


def import_diffusers() -> None:
    """Import what networks are made of: seconds, once per process, that are no part of what a network costs.

    A deployed client that introduces itself is a new process that needs no network, so it is not done at the top.
    """
    from diffusers import DDPMScheduler, UNet2DModel  # noqa: F401, PLC0415


def _unet(name: str, preset: Preset, shape: ImageShape) -> nn.Module:
    from diffusers import UNet2DModel  # noqa: PLC0415 - slow, as above

    levels = len(preset.channels)
    if shape.size % 2 ** (levels - 1):
        allowed = f"a multiple of {2 ** (levels - 1)} for `model` = {name} (the images have {shape.size} pixels a side)"
        raise SettingError("image_size", shape.size, allowed)
    down, up = "DownBlock2D", "UpBlock2D"
    inner_down, inner_up = ("AttnDownBlock2D", "AttnUpBlock2D") if preset.attention else (down, up)
    unet: nn.Module = UNet2DModel(
        sample_size=shape.size,
        in_channels=shape.channels,
        out_channels=shape.channels,
        layers_per_block=preset.blocks,
        block_out_channels=preset.channels,
        down_block_types=(down,) * (levels - 1) + (inner_down,),
        up_block_types=(inner_up,) + (up,) * (levels - 1),
        norm_num_groups=8,
        attention_head_dim=32,
        add_attention=preset.attention,
        num_class_embeds=shape.num_classes or None,
    )
    return unet


def _custom(path: str, shape: ImageShape) -> nn.Module:
    try:
        factory = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingError("model", path, f"package.module:factory must be importable ({error})") from error
    if not callable(factory):
        raise SettingError("model", path, f"the factory must be callable, not {type(factory).__name__}")
    network = factory(shape)
    if not isinstance(network, nn.Module):
        raise SettingError("model", path, f"the factory must return a torch module, not {type(network).__name__}")
    return network


def as_denoise(network: nn.Module, runtime: Runtime) -> Denoise:
    """The network as a function of (x_t, t in 1..T, labels), float32 in and out, run in the runtime's precision.

    diffusers counts steps from 0, so the network is called with t - 1 and its folder works in diffusers as it is.
    """

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        with runtime.autocast():
            output = network(x_t, t - 1, class_labels=labels)
        prediction: Tensor = output if isinstance(output, Tensor) else output.sample
        return prediction.float()

    return denoise


def save_network(network: nn.Module, folder: Path, schedule: Schedule, prediction: Prediction) -> None:
    """Write `folder`/unet and `folder`/scheduler as diffusers reads them (safetensors and JSON)."""
    from diffusers import DDPMScheduler, ModelMixin  # noqa: PLC0415 - slow, as above

    if isinstance(network, ModelMixin):
        network.save_pretrained(folder / "unet")
    else:
        (folder / "unet").mkdir(parents=True, exist_ok=True)
        save_model(network, str(folder / "unet" / "diffusion_pytorch_model.safetensors"))
    scheduler = DDPMScheduler(
        num_train_timesteps=schedule.timesteps,
        trained_betas=schedule.betas.tolist(),
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[prediction],
        clip_sample=True,
    )
    scheduler.save_pretrained(folder / "scheduler")
