"""Reconstruction of a client's images from all that was received of them, by every attack."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.fields import setting
from collafuse_flwr.data.conditioning import num_attributes
from collafuse_flwr.data.federated import FederationData
from collafuse_flwr.diffusion.unet import PRESETS
from collafuse_flwr.evaluation.image_similarity import image_similarity
from collafuse_flwr.privacy.attacks.denoiser_reconstruction import continue_sampling, equivalent_release, predict_x0
from collafuse_flwr.privacy.leakage_bounds import covariance_eigenvalues, wiener_psnr
from collafuse_flwr.setup.diffusion import diffusion_setup
from simulations.attack.server_view import ServerView
from simulations.attack.spec import (
    REBUILT,
    SHOWN,
    AttackSpec,
    BestReconstructions,
    Column,
    Outcome,
    Panel,
    of_diffusion,
)
from simulations.attack.target import ClientTarget


@dataclass(frozen=True)
class ReconstructionSettings:
    """The attacker's own denoiser."""

    shadow_model: str = setting("nano", "preset of the attacker's own denoiser", choices=tuple(PRESETS))
    shadow_steps: int = setting(200, "optimiser steps of its training, on the held-out images", low=1)


def run(target: ClientTarget, settings: ReconstructionSettings) -> Outcome:
    """PSNR and SSIM of every reconstruction, those of the mean shadow image (no information), and the worst images.

    `upload` is what was received as it is, scaled; `backbone` continues the chain below the cut with a network that
    was never trained there, `predict_x0` is its estimate at the cut, and `shadow` a denoiser of the attacker's own. The
    last three need a cut above 0: nothing is left to be denoised in a clean image. Of latents what their decoder makes
    of them is held against the images.
    """
    seen, cut, finished, shadow = target.received, target.cut, target.run.diffusion, target.run.shadow
    if seen is None:
        return Outcome()
    alpha_bar = float(finished.setup.schedule.alpha_bar[cut])
    rebuilt = {
        "upload": seen.mean / math.sqrt(alpha_bar),
        "wiener": shadow.wiener.rebuild(seen.mean, alpha_bar, seen.releases),
        **(_denoised(target, seen, settings) if cut else {}),
    }
    decode, closed_form = finished.data.images.decode, finished.data.images.codec is None
    rebuilt = {name: decode(images.clamp(-1, 1)) for name, images in rebuilt.items()}
    guess = image_similarity(seen.images, shadow.mean.expand_as(seen.images))
    measured = {name: image_similarity(seen.images, images) for name, images in rebuilt.items()}
    snr = alpha_bar / (1 - alpha_bar) if cut else math.inf
    numbers: dict[str, float | None] = {"psnr_chance": guess.psnr, "ssim_chance": guess.ssim}
    for name, fidelity in measured.items():
        numbers |= {f"psnr_{name}": fidelity.psnr, f"ssim_{name}": fidelity.ssim}
    if closed_form:
        numbers["psnr_wiener_closed_form"] = wiener_psnr(snr, covariance_eigenvalues(seen.x_0), releases=seen.releases)
    best = torch.stack([fidelity.per_image for fidelity in measured.values()]).amax(dim=0)
    worst = best.argsort(descending=True)[:SHOWN]
    shown = {"original": seen.images, "received": decode(seen.last)}
    shown |= {n: i for n, i in rebuilt.items() if n != "upload"}
    return Outcome(numbers, BestReconstructions(best[worst], {name: images[worst] for name, images in shown.items()}))


def _denoised(target: ClientTarget, seen: ServerView, settings: ReconstructionSettings) -> dict[str, Tensor]:
    """What denoisers make of the mean release."""
    setup, backbone = target.run.diffusion.setup, target.run.diffusion.backbone
    schedule, prediction, device = setup.schedule, setup.objective.prediction, setup.runtime.device
    x, step = equivalent_release(schedule, seen.mean, target.cut, seen.releases)
    x, labels = x.to(device), None if seen.labels is None else seen.labels.to(device)
    rebuilt = {}
    if backbone is not None:
        denoise = setup.denoise(backbone.eval())
        rebuilt["backbone"] = continue_sampling(schedule, prediction, denoise, x, step, labels)
        rebuilt["one_step"] = predict_x0(schedule, prediction, denoise, x, step, labels)
    shadow = target.run.shadow.denoiser(step, settings.shadow_model, settings.shadow_steps)
    rebuilt["shadow"] = predict_x0(schedule, prediction, shadow, x, step, labels)
    return {name: images.cpu() for name, images in rebuilt.items()}


def _check(config: Config, data: FederationData, settings: ReconstructionSettings) -> None:
    """Refuse images that the attacker's network does not fit."""
    _, channels, size, _ = data.images.images.shape
    try:
        diffusion_setup(replace(config, diffusion=replace(config.diffusion, model=settings.shadow_model))).backbone(
            channels, size, data.images.num_classes, num_attributes(config.data.conditioning, data.images)
        )
    except SettingError as error:
        raise SettingError("attack", True, f"false where the attacker's network does not fit ({error})") from error


#: What rebuilds, in the card and in the picture.
_TITLES = {
    "wiener": ("Wiener", "Wiener", "Wiener"),
    "backbone": ("chain", "backbone", "backbone, chain"),
    "one_step": ("1 step", "backbone, 1 step", "backbone, 1 step"),
    "shadow": ("shadow", "shadow", "shadow"),
}
ATTACK = AttackSpec(
    "reconstruction",
    "By a Wiener filter, by the backbone (chain: continued below the cut; 1 step: its estimate) and by a shadow "
    "denoiser.",
    REBUILT,
    tuple(
        Column(f"psnr_{key}", heading, ".1f", "psnr_chance", f"PSNR, {title}", "PSNR in dB", 1)
        for key, (heading, _, title) in _TITLES.items()
    ),
    run,
    of_diffusion,
    tuple(
        Panel(
            "Image rebuilt",
            unit,
            {label: f"{measure}_{key}" for key, (_, label, _) in _TITLES.items()},
            f"{measure}_chance",
        )
        for measure, unit in (("psnr", "PSNR in dB"), ("ssim", "SSIM"))
    ),
    {
        "original": "original",
        "received": "received (one)",
        "wiener": "Wiener filter",
        "backbone": "backbone, continued",
        "one_step": "backbone, estimate",
        "shadow": "shadow denoiser",
    },
    ReconstructionSettings,
    _check,
)
