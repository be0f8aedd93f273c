"""Labels of real images from what the split GAN's generator uploads, and from its discriminator's gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.gan.label_tail import label_tails, learning_labels
from collafuse_flwr.gan.networks import GeneratorStem
from collafuse_flwr.gan.split_gan.ops import OptimConfig, gradient, requires_grad_leaf
from collafuse_flwr.privacy.attacks.label_recovery import labels_from_gradients, recover_labels_and_codes
from collafuse_flwr.setup.gan import build_optim_config
from simulations.attack.spec import ACTIVATIONS, AttackSpec, Column, Outcome, Panel, sends_activations
from simulations.attack.split_view import Uploaded
from simulations.attack.target import ClientTarget


def run(target: ClientTarget, _: Any) -> Outcome:
    """The share of labels that come back from either, that the tail reads off images, and that of guesses."""
    seen = target.uploaded
    if seen is None:
        return Outcome()
    classes = target.run.split.architecture.num_classes
    own = target.run.data.client(target.client).train.labels.bincount(minlength=classes).double()
    return Outcome(
        {
            "labels_codes": recovered_share(seen),
            "labels_gradients": gradient_share(seen, build_optim_config(target.run.config), classes),
            "labels_tail": tail_share(seen, classes),
            "labels_split_chance": 1 / classes,
            "labels_own": (own / own.sum()).square().sum().item(),
        }
    )


def recovered_share(seen: Uploaded) -> float | None:
    """The share of labels that are right; None where the head is more than one block, or another's."""
    if seen.generator.indices != (0,) or not isinstance(seen.generator[0], GeneratorStem):
        return None
    result = recover_labels_and_codes(seen.generator[0].state_dict(), seen.codes)
    return _right(seen, result.labels)


def gradient_share(seen: Uploaded, optim_config: OptimConfig, classes: int) -> float | None:
    """The share of labels that the gradient at the tail gives away; None where no label gets there."""
    if not label_tails(seen.tail):
        return None
    candidates = []
    for label in range(classes):
        at = requires_grad_leaf(seen.features)
        with learning_labels(seen.tail):
            optim_config.loss(seen.tail(at, torch.full_like(seen.labels, label)), 1.0).backward()
        candidates.append(gradient(at))
    labels = labels_from_gradients(seen.gradient, torch.stack(candidates), named_generator("any label"))
    return _right(seen, labels)


@torch.no_grad()
def tail_share(seen: Uploaded, classes: int) -> float | None:
    """The share that the tail's averaged rows of classes say of images, as a classifier would; None without them."""
    if not label_tails(seen.tail):
        return None
    with learning_labels(seen.tail):
        match = [seen.tail(seen.features, torch.full_like(seen.labels, label))[:, 1] for label in range(classes)]
    return _right(seen, torch.stack(match).argmax(dim=0))


def _right(seen: Uploaded, labels: Tensor) -> float:
    return (labels == seen.labels).double().mean().item()


ATTACK = AttackSpec(
    "label_recovery",
    "Labels of the batch's real images. G's: from the generator's activations, closed form; gradient: from the "
    "gradient that the discriminator's tail sends back, where it takes labels; tail: what that tail, as a classifier, "
    "says of the images; own: any label, as frequent as among the client's; guess: any label.",
    ACTIVATIONS,
    (
        Column(
            "labels_codes",
            "G's labels",
            ".3f",
            "labels_split_chance",
            "labels, G's activations",
            "share of labels",
            3,
        ),
        Column("labels_gradients", "gradient", ".3f", "labels_split_chance"),
        Column("labels_tail", "tail", ".3f", "labels_split_chance"),
        Column("labels_own", "own", ".3f"),
    ),
    run,
    sends_activations,
    (Panel("Label read off", "share", {"from G's": "labels_codes"}, "labels_split_chance"),),
)
