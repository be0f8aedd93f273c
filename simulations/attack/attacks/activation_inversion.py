"""Images and labels from what the first blocks of the split GAN's discriminator upload."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from collafuse_flwr.core.fields import setting
from collafuse_flwr.data.federated import FederationData
from collafuse_flwr.data.images import normalize
from collafuse_flwr.evaluation.image_similarity import image_similarity
from collafuse_flwr.gan.networks import DiscriminatorStem
from collafuse_flwr.privacy.attacks.activation_inversion import InvertedBatch, SolvableStem, invert_activations
from collafuse_flwr.privacy.attacks.activation_inversion_search import search_activation_inversion
from simulations.attack.spec import (
    ACTIVATIONS,
    SHOWN,
    AttackSpec,
    BestReconstructions,
    Column,
    Outcome,
    Panel,
    sends_activations,
)
from simulations.attack.split_view import Uploaded
from simulations.attack.target import ClientTarget

#: What inverted the activations.
CLOSED_FORM, SEARCH = "closed form", "search"


@dataclass(frozen=True)
class InversionSettings:
    """How much of a batch is inverted."""

    split_rows: int = setting(64, "images of a batch that are rebuilt in closed form, in runs of the split GAN", low=1)
    split_steps: int = setting(
        60, "steps of the search where there is no closed form, for all images of a batch; 0: none", low=0
    )


def run(target: ClientTarget, settings: InversionSettings) -> Outcome:
    """The first batch that the client would send after the last average."""
    return inverted(target.uploaded, mean_image(target.run.data), settings)


def inverted(seen: Uploaded | None, guess: Tensor, settings: InversionSettings) -> Outcome:
    """Images and labels of a batch beside `guess`, (channels, size, size), the image of who receives nothing.

    `split_rows` of it are inverted in closed form; where there is none all are searched for.
    """
    method, batch = (None, None) if seen is None else _inverted(seen, settings)
    if seen is None or batch is None:
        return Outcome({"method": method})
    x, labels = seen.x[: len(batch.images)], seen.labels[: len(batch.images)]
    fidelity, nothing = image_similarity(x, batch.images), image_similarity(x, guess.expand_as(x))
    numbers = {
        "method": method,
        "rows": len(x),
        "labels_split": (batch.labels == labels).double().mean().item(),
        "psnr_split": fidelity.psnr,
        "psnr_chance": nothing.psnr,
        "ssim_split": fidelity.ssim,
        "ssim_chance": nothing.ssim,
    }
    best = fidelity.per_image.argsort(descending=True)[:SHOWN]
    images = BestReconstructions(fidelity.per_image[best], {"original": x[best], "split": batch.images[best]})
    return Outcome(numbers, images)


def mean_image(data: FederationData) -> Tensor:
    """The mean of the images that all clients hold out, (channels, size, size)."""
    rows = torch.cat([partition.held_out for partition in data.partitions]).unique()
    return normalize(data.images.images[rows]).mean(dim=0)


def _inverted(seen: Uploaded, settings: InversionSettings) -> tuple[str | None, InvertedBatch | None]:
    """Images and labels, and what inverted them; nothing where only a search would do and none is wanted."""
    if not isinstance(seen.head[0], DiscriminatorStem):
        # Both need the pictures that stand for labels in it.
        return None, None
    if seen.head.indices == (0,) and SolvableStem.fits(seen.head[0].state_dict()):
        stem = SolvableStem.of(seen.head[0].state_dict(), running=seen.running)
        if stem.solvable:
            return CLOSED_FORM, invert_activations(stem, seen.activations[: settings.split_rows])
    if not settings.split_steps:
        return None, None
    # All rows were normalised together, and are searched together.
    steps, channels = settings.split_steps, seen.x.shape[1]
    return SEARCH, search_activation_inversion(seen.head, seen.activations, channels, steps, running=seen.running)


ATTACK = AttackSpec(
    "activation_inversion",
    "Of the first batch of real images after the last average. by: closed form (the client keeps one block) or "
    "search; labels: share that is right; guess: the mean of the images that are held out.",
    ACTIVATIONS,
    (
        Column("method", "by", "s"),
        Column("rows", "images", "d"),
        Column("labels_split", "labels", ".3f", "labels_split_chance", "labels, activations", "share of labels", 3),
        Column("psnr_split", "PSNR dB", ".1f", "psnr_chance", "PSNR, activations", "PSNR in dB", 1),
        Column("ssim_split", "SSIM", ".3f", "ssim_chance"),
    ),
    run,
    sends_activations,
    (
        Panel("Label read off", "share", {"from D's": "labels_split"}, "labels_split_chance"),
        Panel("Image rebuilt", "PSNR in dB", {"from activations": "psnr_split"}, "psnr_chance"),
        Panel("Image rebuilt", "SSIM", {"from activations": "ssim_split"}, "ssim_chance"),
    ),
    {"original": "original", "split": "from its activations"},
    InversionSettings,
)
