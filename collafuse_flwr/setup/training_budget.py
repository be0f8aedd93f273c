"""How the image updates of a run are dealt out between server and clients."""

from __future__ import annotations

import math

import numpy as np

from collafuse_flwr.config.config import Config

#: Share of the rounds that the backbone trains alone before clients start from it: its weights must be worth taking.
BACKBONE_HEAD_START = 0.7


def client_start_round(config: Config, num_rounds: int) -> int:
    """The first round in which clients train: 1, or later when they start from the backbone's weights."""
    if config.client.init_from == "random":
        return 1
    return config.client.start_round or int(BACKBONE_HEAD_START * num_rounds) + 1


def deconvolution_rounds(config: Config) -> set[int]:
    """The rounds in which uploads are denoised before the backbone trains, `deconvolution.iterations` of them.

    They are evenly spread over those before clients take the backbone, or where these are too few over all; in the
    first the backbone has learnt nothing yet.
    """
    count, rounds = config.deconvolution.iterations, config.run.num_rounds
    alone = client_start_round(config, rounds) - 1
    last = alone if count < alone else rounds
    return {1 + math.ceil(i * last / (count + 1)) for i in range(1, count + 1)}


def starts_from_backbone(config: Config, cut: int) -> bool:
    """Whether a client with this cut starts from the backbone: not if it has no denoiser, nor if it does everything."""
    return config.client.init_from == "backbone" and 0 < cut < config.diffusion.timesteps


def client_step_share(config: Config, cut: int) -> float:
    """A client's share of a full DDPM's image updates: c = k / T; strategies without a cut take all of them.

    With `train.match` = client_flops these have only as many as a client of CollaFuse at `cut_ratio`.
    """
    if config.spec.fixed_cut is not None and config.train.match == "client_flops":
        return config.cut.cut_ratio * cut / config.diffusion.timesteps
    return cut / config.diffusion.timesteps


def averaging_rounds(
    config: Config, num_images: float, image_values: int, weight_bytes: int, net_bytes: int, num_attributes: int = 0
) -> set[int]:
    """The rounds after which clients' weights are averaged: all, or as many as CollaFuse's traffic would pay for.

    With `train.match` = traffic a client has the bytes that CollaFuse at `cut_ratio` moves for it: its upload, and the
    backbone that it starts from, of the same network. An exchange is the weights once up and once down.

    Args:
        config: the settings.
        num_images: a client's training images, on average.
        image_values: numbers in an image.
        weight_bytes: bytes of the weights that are exchanged.
        net_bytes: bytes of the whole network.
        num_attributes: bytes of an image's attributes, where these are shared; 0: it has a class, of 8 bytes.

    Returns:
        Rounds evenly spread over the run, the last one among them; empty if the budget pays for none.
    """
    rounds = config.run.num_rounds
    if config.train.match != "traffic":
        return set(range(1, rounds + 1))
    label_bytes = (num_attributes or 8) if config.shares_labels() else 0
    per_image = image_values * np.dtype(config.upload.dtype).itemsize + label_bytes
    paid = num_images * config.upload.draws_per_image * per_image * (config.cut.cut_ratio < 1)
    paid += net_bytes * starts_from_backbone(config, round(config.cut.cut_ratio * config.diffusion.timesteps))
    count = min(rounds, int(paid // (2 * weight_bytes)))
    return {math.ceil(rounds * i / count) for i in range(1, count + 1)}


def planned_updates(config: Config, num_images: float, cut: int, round_: int) -> float:
    """Image updates of a client in a round; what it put off while it waited for the backbone is made up for evenly."""
    rounds = config.run.num_rounds
    begins = client_start_round(config, rounds) if starts_from_backbone(config, cut) else 1
    due = updates_per_round(config, num_images, client_step_share(config, cut))
    return due * rounds / (rounds - begins + 1) if round_ >= begins else 0.0


def updates_per_round(config: Config, num_images: float, share: float) -> float:
    """Image updates of one side in a round: `train.local_epochs` passes, times its share of the chain if proportional.

    A DDPM with t uniform on 1..T spends the share c = k / T of its image updates on t <= k (arXiv 2402.19105).
    """
    full = config.train.local_epochs * num_images
    if share == 0 or config.client.update_budget == "full":
        return full if share else 0.0
    return share * full
