"""Labels from what the first block of the split GAN's generator uploads."""

from __future__ import annotations

from typing import Any

from collafuse_flwr.gan.networks import GeneratorStem
from collafuse_flwr.privacy.attacks.label_recovery import recover_labels_and_codes
from simulations.attack.spec import ACTIVATIONS, AttackSpec, Column, Outcome, Panel, sends_activations
from simulations.attack.split_view import Uploaded
from simulations.attack.target import ClientTarget


def run(target: ClientTarget, _: Any) -> Outcome:
    """The share of labels that the generator's head gives away, and that of any label."""
    seen = target.uploaded
    if seen is None:
        return Outcome()
    chance = 1 / target.run.split.architecture.num_classes
    return Outcome({"labels_codes": recovered_share(seen), "labels_split_chance": chance})


def recovered_share(seen: Uploaded) -> float | None:
    """The share of labels that are right; None where the head is more than one block, or another's."""
    if seen.generator.indices != (0,) or not isinstance(seen.generator[0], GeneratorStem):
        return None
    result = recover_labels_and_codes(seen.generator[0].state_dict(), seen.codes)
    return (result.labels == seen.labels).double().mean().item()


ATTACK = AttackSpec(
    "label_recovery",
    "G's labels: from the generator's activations, closed form; guess: any label.",
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
    ),
    run,
    sends_activations,
    (Panel("Label read off", "share", {"from G's": "labels_codes"}, "labels_split_chance"),),
)
