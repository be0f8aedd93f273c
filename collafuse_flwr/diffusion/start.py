"""A start of all denoisers from a network that was trained before, on public images."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.diffusion.parametrization import Prediction
from collafuse_flwr.diffusion.schedule import Schedule
from collafuse_flwr.diffusion.unet import WEIGHTS

#: Weights that depend on the classes, or attributes, of the images; they are learnt anew where there are fewer or more.
LABEL_WEIGHTS = "class_embedding."
#: Largest difference of two schedules' alpha_bar that is rounding: diffusers computes it in float32.
ALPHA_BAR_TOLERANCE = 1e-4
#: Where the backbone is in the folder of a run.
BACKBONE = Path("server/backbone")


def load_start(folder: Path, network: nn.Module, schedule: Schedule, prediction: Prediction) -> dict[str, Tensor]:
    """The weights in a folder with `unet` and `scheduler`, as diffusers writes it, or in that of a finished run.

    They must be of a network like `network`, trained on the same process: a network's output at (x_t, t) means
    something else in any other. The label embedding is left out where it is of fewer or more labels.

    Args:
        folder: the pipeline's or the run's.
        network: what is to start from it; it is not changed.
        schedule: the global schedule; alpha_bar must be equal but for rounding.
        prediction: what the networks predict.

    Returns:
        Name -> weight, float32, on the CPU.

    Raises:
        SettingError: the folder has no such network.
    """
    places = (folder.parent if folder.name == WEIGHTS.parts[0] else folder, folder / BACKBONE)
    root = next((place for place in places if (place / WEIGHTS).is_file()), None)
    if root is None:
        raise _refused(folder, f"a folder with {WEIGHTS} in it, or that of a finished run")
    _check_process(folder, root / "scheduler", schedule, prediction)
    try:
        held = load_file(root / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise _refused(folder, f"one whose weights can be read ({error})") from error
    own = network.state_dict()
    fitting = {
        name: held[name].float() for name, like in own.items() if name in held and held[name].shape == like.shape
    }
    missing = [name for name in own.keys() | held.keys() if name not in fitting and not name.startswith(LABEL_WEIGHTS)]
    if missing:
        name = min(missing)
        shapes = [tuple(weights[name].shape) if name in weights else "missing" for weights in (held, own)]
        raise _refused(
            folder,
            f"of the same network as `model` and of as many channels: {name} is {shapes[0]} there, {shapes[1]} here",
        )
    if not all(bool(value.isfinite().all()) for value in fitting.values()):
        raise _refused(folder, "one whose weights are finite")
    return fitting


def _check_process(start: Path, folder: Path, schedule: Schedule, prediction: Prediction) -> None:
    """Refuse a network of another diffusion process: neither steps nor predictions can be converted in its weights.

    Raises:
        SettingError: it is another process, or none is said.
    """
    from diffusers import DDPMScheduler  # noqa: PLC0415 - slow to import

    try:
        # By a whole path: what is not there would be looked up on a hub.
        theirs = DDPMScheduler.from_pretrained(folder.absolute(), local_files_only=True)
    except (OSError, ValueError) as error:
        raise _refused(
            start, f"one whose diffusion process can be read from {folder.name}/scheduler_config.json"
        ) from error
    if theirs.config.prediction_type != prediction:
        allowed = f"one whose networks predict `diffusion.prediction_type` = {prediction}"
        raise _refused(start, f"{allowed}, not {theirs.config.prediction_type}")
    steps = len(theirs.alphas_cumprod)
    if steps != schedule.timesteps:
        raise _refused(start, f"of `diffusion.timesteps` = {schedule.timesteps} steps, not {steps}")
    if not torch.allclose(theirs.alphas_cumprod.double(), schedule.alpha_bar[1:], rtol=0, atol=ALPHA_BAR_TOLERANCE):
        raise _refused(start, f"of the noise schedule `diffusion.schedule` = {schedule.name}")


def _refused(folder: Path, allowed: str) -> SettingError:
    return SettingError("start_from", str(folder), allowed)
