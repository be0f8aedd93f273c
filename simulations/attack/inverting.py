"""Inversion of gradients where weights leave the clients: the leak of the baseline, for a fair comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from collafuse_flwr.data import evenly, labels_of, to_model_space
from collafuse_flwr.diffusion import denoising_loss
from collafuse_flwr.privacy.attacks import gradients, invert_gradient, measure_fidelity
from collafuse_flwr.rng import stream
from simulations.attack.rebuilding import Worst
from simulations.attack.shadow import Shadow
from simulations.finished import Finished

#: Steps of a search; each takes a gradient of a gradient.
STEPS = 100


def invert(
    run: Finished, client: int, network: nn.Module, shadow: Shadow, count: int
) -> tuple[dict[str, float | None], Worst]:
    """PSNR and SSIM of some training images, rebuilt from the gradient of one step on each, and these images.

    It is what a client of one image and one step of SGD from the run's last weights would send, at t = T / 2, when the
    server knows t, the noise and the label: more than the run's own clients, of many images and steps, send.
    """
    process, images = run.process, run.data.images
    device, network = process.runtime.device, network.eval()
    denoise, known = process.denoise(network), labels_of(process.config, images)
    half = torch.full((1,), process.schedule.timesteps // 2, device=device)
    rows = evenly(run.data.partitions[client].train, count)
    x_0, rebuilt = to_model_space(images.images[rows]), []
    for row, image in zip(rows.tolist(), x_0.split(1), strict=True):
        noise = torch.randn(image.shape, generator=stream(shadow.seed, "inversion", row)).to(device)
        label = None if known is None else known[row : row + 1].to(device)

        def loss(x: Tensor, noise: Tensor = noise, label: Tensor | None = label) -> Tensor:
            start = torch.zeros_like(half)
            return denoising_loss(process.schedule, process.objective, denoise, x, start, half, noise, label)

        sent = gradients(loss(image.to(device)), network)
        rebuilt.append(invert_gradient(loss, network, sent, torch.zeros_like(noise), STEPS).cpu())
    found = measure_fidelity(x_0, torch.cat(rebuilt))
    guess = measure_fidelity(x_0, shadow.images.mean(dim=0).expand_as(x_0))
    numbers: dict[str, float | None] = {"psnr_gradient": found.psnr, "ssim_gradient": found.ssim}
    numbers |= {"psnr_chance": guess.psnr, "ssim_chance": guess.ssim}
    return numbers, Worst(found.per_image, {"original": x_0, "gradient": torch.cat(rebuilt)})
