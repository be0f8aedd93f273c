"""Denoisers by name: presets over diffusers' U-Nets, or any module with the same call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn.functional import pad

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.plugins import call_factory
from collafuse_flwr.core.rng import derive_seed
from collafuse_flwr.core.runtime import Runtime
from collafuse_flwr.diffusion.parametrization import DROPPED, Denoise, Prediction
from collafuse_flwr.diffusion.schedule import Schedule
from collafuse_flwr.diffusion.schedulers import saved_ddpm


@dataclass(frozen=True)
class Preset:
    """Width of each resolution, blocks per resolution and where there is self-attention."""

    channels: tuple[int, ...]
    blocks: int = 1
    attention: bool = False


#: Where the weights are in the folder of a network, as diffusers calls it.
WEIGHTS = Path("unet/diffusion_pytorch_model.safetensors")
#: The buffer in which a network that knows dropped labels has the one that stands for them; it is not saved.
NULL = "null_label"

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
    """The input of a denoiser: channels, the side in pixels, and the number of classes or attributes (0: no labels).

    With `null` the last class, or attribute, is one that no image has: it stands for a label that was dropped.
    """

    channels: int
    size: int
    num_classes: int
    num_attributes: int = 0
    null: bool = False


def build_network(model: str, shape: ImageShape, seed: int, name: str) -> nn.Module:
    """A freshly initialised denoiser; the same (seed, name) gives the same weights in any process.

    Args:
        model: a preset, or `package.module:factory`, a callable that takes an `ImageShape` and returns a module which
            is called as `module(x, t, class_labels=labels)`, with t in 0..T-1 and labels int64 (n,), float32
            (n, num_attributes) or None, and returns a tensor like x, or an object that has it as `.sample`.
        shape: channels, image side, and classes or attributes.
        seed: the run's seed.
        name: whose network this is.

    Raises:
        SettingError: `model` is unknown, or does not fit the image size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "init", name))
        if ":" not in model and model not in PRESETS:
            raise SettingError("model", model, f"one of {', '.join(PRESETS)}, or package.module:factory")
        network = _custom(model, shape) if ":" in model else _unet(model, PRESETS[model], shape)
    if shape.null:
        add_null_label(network, shape)
    return network


def add_null_label(network: nn.Module, shape: ImageShape) -> None:
    """Have a network know its last class, or attribute, as the one that stands for a dropped label."""
    network.register_buffer(NULL, _null(shape), persistent=False)


def import_diffusers() -> None:
    """Import what networks are made of: seconds, once per process, that are no part of what a network costs.

    A deployed client that introduces itself is a new process that needs no network, so it is not done at the top.
    """
    from diffusers import DDPMScheduler, UNet2DConditionModel, UNet2DModel  # noqa: F401, PLC0415


def _unet(name: str, preset: Preset, shape: ImageShape) -> nn.Module:
    from diffusers import UNet2DConditionModel, UNet2DModel  # noqa: PLC0415 - slow, as above

    levels = len(preset.channels)
    if shape.size % 2 ** (levels - 1):
        allowed = f"a multiple of {2 ** (levels - 1)} for `model` = {name} (the images have {shape.size} pixels a side)"
        raise SettingError("image_size", shape.size, allowed)
    down, up = "DownBlock2D", "UpBlock2D"
    inner_down, inner_up = ("AttnDownBlock2D", "AttnUpBlock2D") if preset.attention else (down, up)
    common: dict[str, Any] = {
        "sample_size": shape.size,
        "in_channels": shape.channels,
        "out_channels": shape.channels,
        "layers_per_block": preset.blocks,
        "block_out_channels": preset.channels,
        "down_block_types": (down,) * (levels - 1) + (inner_down,),
        "up_block_types": (inner_up,) + (up,) * (levels - 1),
        "norm_num_groups": 8,
        "attention_head_dim": 32,
    }
    unet: nn.Module
    if shape.num_attributes:
        # UNet2DModel takes a class alone. This one adds W a + b to the embedding of t; its middle is a block shorter.
        unet = UNet2DConditionModel(
            **common,
            mid_block_type="UNetMidBlock2D",
            class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=shape.num_attributes,
        )
    else:
        unet = UNet2DModel(**common, add_attention=preset.attention, num_class_embeds=shape.num_classes or None)
    return unet


def _custom(path: str, shape: ImageShape) -> nn.Module:
    """Somebody else's network, which answers two images with as many of the same shape."""
    network = call_factory("model", path, shape, nn.Module, "a torch module")
    x, labels = torch.zeros(2, shape.channels, shape.size, shape.size), None
    if shape.num_attributes:
        labels = torch.zeros(2, shape.num_attributes)
    elif shape.num_classes:
        labels = torch.zeros(2, dtype=torch.int64)
    trains = network.training
    try:
        with torch.no_grad():
            output = network.eval()(x, torch.zeros(2, dtype=torch.int64), class_labels=labels)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        allowed = f"its network must take images of shape {tuple(x.shape)}, steps (2,) and `class_labels`"
        raise SettingError("model", path, f"{allowed} ({' '.join(str(error).split())})") from error
    output = getattr(output, "sample", output)
    if not isinstance(output, Tensor) or output.shape != x.shape:
        returned = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise SettingError("model", path, f"its network must return images of shape {tuple(x.shape)}, not {returned}")
    return network.train(trains)


def as_denoise(network: nn.Module, runtime: Runtime) -> Denoise:
    """The network as a function of (x_t, t in 1..T, labels), float32 in and out, run in the runtime's precision.

    diffusers counts steps from 0, so the network is called with t - 1 and its folder works in diffusers as it is.
    A network that knows dropped labels takes None for all of them dropped.
    """
    from diffusers import UNet2DConditionModel  # noqa: PLC0415 - slow, as above

    null = dict(network.named_buffers(recurse=False)).get(NULL)
    # It demands tokens to attend to; ours have no block that does.
    tokens = {"encoder_hidden_states": None} if isinstance(network, UNet2DConditionModel) else {}

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        with runtime.autocast():
            output = network(x_t, t - 1, class_labels=_inputs(labels, null, len(x_t)), **tokens)
        prediction: Tensor = output if isinstance(output, Tensor) else output.sample
        return prediction.float()

    return denoise


def _null(shape: ImageShape) -> Tensor:
    """What stands for a dropped label: the last class, (), or only the last attribute, (num_attributes,)."""
    if shape.num_attributes:
        return torch.eye(shape.num_attributes)[-1]
    return torch.tensor(shape.num_classes - 1)


def _inputs(labels: Tensor | None, null: Tensor | None, count: int) -> Tensor | None:
    """Labels as a network takes them: `null` in the place of those that are dropped, attributes as float32.

    Args:
        labels: as in `Denoise`.
        null: what stands for a dropped label, if the network knows any.
        count: images in the batch, n.
    """
    if labels is None:
        return None if null is None else null.expand(count, *null.shape)
    if labels.ndim == 1:
        return labels if null is None else torch.where(labels == DROPPED, null, labels)
    if null is None:
        return labels.float()
    return torch.where(labels[:, :1] == DROPPED, null, pad(labels.float(), (0, 1)))


def save_network(network: nn.Module, folder: Path, schedule: Schedule, prediction: Prediction) -> None:
    """Write `folder`/unet and `folder`/scheduler as diffusers reads them (safetensors and JSON)."""
    from diffusers import ModelMixin  # noqa: PLC0415 - slow, as above

    if isinstance(network, ModelMixin):
        network.save_pretrained(folder / "unet")
    else:
        (folder / "unet").mkdir(parents=True, exist_ok=True)
        save_model(network, str(folder / WEIGHTS))
    saved_ddpm(schedule, prediction).save_pretrained(folder / "scheduler")


def save_backbone(network: nn.Module, folder: Path, schedule: Schedule, prediction: Prediction) -> None:
    """Write a network of the whole chain as `save_network` does, with an index by which `DDPMPipeline` loads it.

    No index is written for networks of classes that diffusers does not have.
    """
    from diffusers import DDPMPipeline, ModelMixin  # noqa: PLC0415 - slow, as above

    if isinstance(network, ModelMixin):
        DDPMPipeline(network, saved_ddpm(schedule, prediction)).save_pretrained(folder)
    else:
        save_network(network, folder, schedule, prediction)
