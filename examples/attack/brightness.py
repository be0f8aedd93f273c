"""An attack of one's own: how well the mean brightness of an image can be read off what was received of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from collafuse_flwr.core.fields import setting
from simulations.attack.spec import RECEIVED, AttackSpec, Column, Outcome, Panel, of_diffusion
from simulations.attack.target import ClientTarget


@dataclass(frozen=True)
class BrightnessSettings:
    """What the attack costs."""

    brightness_images: int = setting(500, "images of a client whose brightness is estimated", low=2)


def run(target: ClientTarget, settings: BrightnessSettings) -> Outcome:
    """The correlation of the true mean of an image with that of its mean release; nothing where nothing came."""
    seen = target.received
    if seen is None:
        return Outcome()
    alpha_bar = float(target.run.diffusion.setup.schedule.alpha_bar[target.cut])
    true, read = (
        images[: settings.brightness_images].flatten(1).mean(dim=1)
        for images in (seen.x_0, seen.mean / math.sqrt(alpha_bar))
    )
    correlation = torch.corrcoef(torch.stack([true, read]))[0, 1].item()
    return Outcome({"brightness": correlation, "brightness_chance": 0.0})


ATTACK = AttackSpec(
    name="brightness",
    about="light: correlation of an image's brightness with that of its mean release.",
    table=RECEIVED,
    columns=(Column("brightness", "light", ".2f", "brightness_chance", "brightness", "correlation"),),
    run=run,
    applies=of_diffusion,
    panels=(Panel("Brightness read off", "correlation", {"mean release": "brightness"}, "brightness_chance"),),
    settings=BrightnessSettings,
)
