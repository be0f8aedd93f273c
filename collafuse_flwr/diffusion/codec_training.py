"""Training a small codec on public images: mean squared error of the pixels, and a little KL to N(0, 1).

    loss = |D(z) - image|^2 / d + kl_weight KL(N(mu, sigma^2) || N(0, 1)) / d,  z ~ N(mu, sigma^2) = E(image)

over the d values of an image (arXiv 1312.6114). The noise on z makes latents smooth: images that are alike have latents
that are, so that noise on latents is noise on images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from collafuse_flwr.core.fields import setting
from collafuse_flwr.core.progress import counted
from collafuse_flwr.core.rng import derive_seed, named_generator
from collafuse_flwr.data.codec import BATCH, Codec
from collafuse_flwr.data.images import normalize
from collafuse_flwr.diffusion.train import cosine_rate, epoch_batches

#: Groups of GroupNorm; widths are multiples of it.
GROUPS = 8


@dataclass(frozen=True)
class CodecConfig:
    """The autoencoder, and how it is trained."""

    latent_channels: int = setting(4, "latents at each place", low=1, high=64)
    downsample: int = setting(4, "pixels a side that become one place: 1, 2, 4, 8 or 16", low=1, high=16)
    width: int = setting(
        16, "channels at the full resolution, a multiple of 8; twice as many below it", low=8, high=512
    )
    num_steps: int = setting(1500, "optimiser steps", low=1)
    batch_size: int = setting(64, "images in a batch", low=1)
    learning_rate: float = setting(2e-3, "Adam's step size, which falls as a cosine", above=0, high=1)
    kl_weight: float = setting(1e-3, "weight of the KL divergence", low=0)


def build_autoencoder(config: CodecConfig, channels: int, size: int, seed: int) -> Any:
    """A freshly initialised AutoencoderKL of diffusers; the same seed gives the same weights."""
    from diffusers import AutoencoderKL  # noqa: PLC0415 - slow to import

    levels = int(math.log2(config.downsample)) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "codec"))
        return AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=(config.width, *(2 * config.width,) * (levels - 1)),
            latent_channels=config.latent_channels,
            norm_num_groups=GROUPS,
            sample_size=size,
            scaling_factor=1.0,
            mid_block_add_attention=False,
        )


def train_autoencoder(autoencoder: Any, images: Tensor, config: CodecConfig, seed: int) -> float:
    """Train on images, uint8 (n, channels, size, size), and note the moments of their latents in its config.

    Returns:
        The mean loss of the last tenth of the steps.
    """
    generator = named_generator(seed, "codec", "batches")
    optimiser = torch.optim.Adam(autoencoder.parameters(), lr=config.learning_rate, fused=True)
    batches = list(epoch_batches(len(images), config.batch_size, config.num_steps, generator))
    losses: list[float] = []
    for step, rows in enumerate(counted(batches, "training the codec", total=len(batches))):
        optimiser.param_groups[0]["lr"] = cosine_rate(config.learning_rate, step / len(batches))
        x = normalize(images[rows])
        posterior = autoencoder.encode(x).latent_dist
        drawn = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
        loss = functional.mse_loss(autoencoder.decode(drawn).sample, x)
        loss = loss + config.kl_weight * posterior.kl().mean() / x[0].numel()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    note_moments(autoencoder, images)
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


@torch.no_grad()
def note_moments(autoencoder: Any, images: Tensor) -> None:
    """Write each channel's mean and standard deviation over the images where diffusers has them."""
    latents = torch.cat([autoencoder.encode(normalize(own)).latent_dist.mean for own in images.split(BATCH)]).double()
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3), correction=0).clamp(min=1e-6)
    autoencoder.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


def round_trip(codec: Codec, images: Tensor) -> Tensor:
    """What is left of images, uint8, after they were latents: clipped, rounded, decoded; in [-1, 1]."""
    return codec.decode(normalize(codec.encode(images)))
