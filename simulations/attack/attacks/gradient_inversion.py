"""Inversion of gradients where weights leave the clients: the leak of the baseline, for a fair comparison."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from collafuse_flwr.core.fields import setting
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.conditioning import conditioning_labels
from collafuse_flwr.data.images import normalize, subsample_evenly
from collafuse_flwr.diffusion.loss import denoising_loss
from collafuse_flwr.evaluation.image_similarity import image_similarity
from collafuse_flwr.privacy.attacks.gradient_inversion import gradients, invert_gradient
from simulations.attack.spec import REBUILT, AttackSpec, BestReconstructions, Column, Outcome, Panel, of_diffusion
from simulations.attack.target import ClientTarget

#: Steps of a search; each takes a gradient of a gradient.
STEPS = 100


@dataclass(frozen=True)
class InversionSettings:
    """How many images are rebuilt."""

    inversions: int = setting(
        2, "images of a client that are rebuilt from their gradient, in runs that share weights", low=0
    )


def run(target: ClientTarget, settings: InversionSettings) -> Outcome:
    """PSNR and SSIM of some training images, rebuilt from the gradient of one step on each, and these images.

    It is what a client of one image and one step of SGD from the run's last weights would send, at t = T / 2, when the
    server knows t, the noise and the label: more than the run's own clients, of many images and steps, send.
    """
    finished, shadow = target.run.diffusion, target.run.shadow
    network = finished.backbone
    if not finished.config.spec.averages_denoisers or network is None or not settings.inversions:
        return Outcome()
    setup, images = finished.setup, finished.data.images
    device, network = setup.runtime.device, network.eval()
    denoise, conditions = setup.denoise(network), conditioning_labels(setup.conditioning, images)
    half = torch.full((1,), setup.schedule.timesteps // 2, device=device)
    rows = subsample_evenly(finished.data.partitions[target.client].train, settings.inversions)
    x_0, rebuilt = normalize(images.images[rows]), []
    for row, image in zip(rows.tolist(), x_0.split(1), strict=True):
        noise = torch.randn(image.shape, generator=named_generator(target.run.seed, "inversion", row)).to(device)
        label = None if conditions is None else conditions[row : row + 1].to(device)

        def loss(x: Tensor, noise: Tensor = noise, label: Tensor | None = label) -> Tensor:
            start = torch.zeros_like(half)
            return denoising_loss(setup.schedule, setup.objective, denoise, x, start, half, noise, label)

        sent = gradients(loss(image.to(device)), network)
        rebuilt.append(invert_gradient(loss, network, sent, torch.zeros_like(noise), STEPS).cpu())
    original, images_rebuilt = normalize(images.pixels[rows]), images.decode(torch.cat(rebuilt))
    fidelity = image_similarity(original, images_rebuilt)
    guess = image_similarity(original, shadow.mean.expand_as(original))
    numbers = {"psnr_gradient": fidelity.psnr, "ssim_gradient": fidelity.ssim}
    numbers |= {"psnr_chance": guess.psnr, "ssim_chance": guess.ssim}
    images_by_row = {"original": original, "gradient": images_rebuilt}
    return Outcome(numbers, BestReconstructions(fidelity.per_image, images_by_row))


ATTACK = AttackSpec(
    "gradient_inversion",
    "grad: from a gradient, where weights are sent.",
    REBUILT,
    (Column("psnr_gradient", "grad", ".1f", "psnr_chance", "PSNR, gradient", "PSNR in dB", 1),),
    run,
    of_diffusion,
    (
        Panel("Image rebuilt", "PSNR in dB", {"gradient": "psnr_gradient"}, "psnr_chance"),
        Panel("Image rebuilt", "SSIM", {"gradient": "ssim_gradient"}, "ssim_chance"),
    ),
    {"original": "original", "gradient": "from its gradient"},
    InversionSettings,
)
