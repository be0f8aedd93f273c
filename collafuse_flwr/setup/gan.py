"""What a GAN run's settings mean for its nets: architecture, optimiser, cuts, and batches in a round."""

from __future__ import annotations

import math
from collections.abc import Iterable

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.runtime import choose_runtime
from collafuse_flwr.diffusion.unet import ImageShape
from collafuse_flwr.gan.external import load_architecture
from collafuse_flwr.gan.networks import Architecture, Cuts, build_architecture
from collafuse_flwr.gan.split_gan.ops import OptimConfig


def build_gan_architecture(config: Config, channels: int, size: int, num_classes: int) -> Architecture:
    """The nets that the settings describe, or those of `model` = package.module:factory, for such images.

    Raises:
        SettingError: they do not fit the images.
    """
    if ":" in config.diffusion.model:
        return load_architecture(config.diffusion.model, ImageShape(channels, size, num_classes))
    gan, split = config.gan, config.split_gan
    tail = split.condition_at == "tail"
    return build_architecture(
        channels, size, num_classes, gan.width, gan.depth, spectral=split.spectral_norm, tail=tail
    )


def build_optim_config(config: Config) -> OptimConfig:
    """How nets are optimised, and where.

    Raises:
        SettingError: the configured device is not there.
    """
    runtime, split = choose_runtime(config.run.device, config.run.precision), config.split_gan
    return OptimConfig(runtime, config.gan.learning_rate, loss_kind=split.loss, ema=split.ema)


def configured_cuts(config: Config) -> tuple[Cuts, ...]:
    """The cuts of every client, as `split_gan.client_cuts` says; the least that is allowed where it says nothing.

    Raises:
        SettingError: they are not cuts.
    """
    cuts = tuple(map(Cuts.parse, config.split_gan.client_cuts)) or (min_cuts(config),)
    return cuts * config.run.num_supernodes if len(cuts) == 1 else cuts


def min_cuts(config: Config) -> Cuts:
    """The least that every client keeps."""
    return Cuts.parse(config.split_gan.min_cut)


def batches_per_round(config: Config, sizes: Iterable[float]) -> int:
    """Batches of a round: `train.local_epochs` passes of the client with most images, whose pace all others keep."""
    return max(1, math.ceil(config.train.local_epochs * max(sizes, default=0) / config.gan.batch_size))
