"""Inversion of gradients where weights leave the clients: the leak of the baseline, for a fair comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.conditioning import conditioning_labels
from collafuse_flwr.data.images import normalize, subsample_evenly
from collafuse_flwr.diffusion.loss import denoising_loss
from collafuse_flwr.evaluation.image_similarity import image_similarity
from collafuse_flwr.privacy.attacks.gradient_inversion import gradients, invert_gradient
from collafuse_flwr.runs.loaded_run import FinishedRun
from simulations.attack.reconstruction import BestReconstructions
from simulations.attack.shadow_models import ShadowAttacker

#: Steps of a search; each takes a gradient of a gradient.
STEPS = 100


def invert(
    run: FinishedRun, client: int, network: nn.Module, shadow: ShadowAttacker, count: int
) -> tuple[dict[str, float | None], BestReconstructions]:
    """PSNR and SSIM of some training images, rebuilt from the gradient of one step on each, and these images.

    It is what a client of one image and one step of SGD from the run's last weights would send, at t = T / 2, when the
    server knows t, the noise and the label: more than the run's own clients, of many images and steps, send.
    """
    setup, images = run.setup, run.data.images
    device, network = setup.runtime.device, network.eval()
    denoise, known = setup.denoise(network), conditioning_labels(setup.conditioning, images)
    half = torch.full((1,), setup.schedule.timesteps // 2, device=device)
    rows = subsample_evenly(run.data.partitions[client].train, count)
    x_0, rebuilt = normalize(images.images[rows]), []
    for row, image in zip(rows.tolist(), x_0.split(1), strict=True):
        noise = torch.randn(image.shape, generator=named_generator(shadow.seed, "inversion", row)).to(device)
        label = None if known is None else known[row : row + 1].to(device)

        def loss(x: Tensor, noise: Tensor = noise, label: Tensor | None = label) -> Tensor:
            start = torch.zeros_like(half)
            return denoising_loss(setup.schedule, setup.objective, denoise, x, start, half, noise, label)

        sent = gradients(loss(image.to(device)), network)
        rebuilt.append(invert_gradient(loss, network, sent, torch.zeros_like(noise), STEPS).cpu())
    found = image_similarity(x_0, torch.cat(rebuilt))
    guess = image_similarity(x_0, shadow.images.mean(dim=0).expand_as(x_0))
    numbers: dict[str, float | None] = {"psnr_gradient": found.psnr, "ssim_gradient": found.ssim}
    numbers |= {"psnr_chance": guess.psnr, "ssim_chance": guess.ssim}
    return numbers, BestReconstructions(found.per_image, {"original": x_0, "gradient": torch.cat(rebuilt)})
