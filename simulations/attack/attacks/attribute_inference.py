"""Reading the class, or attributes, off the releases of images."""

from __future__ import annotations

from typing import Any

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.images import subsample_evenly
from collafuse_flwr.privacy.attacks.attribute_inference import CHANCE, probe
from simulations.attack.server_view import MAX_TARGETS
from simulations.attack.spec import RECEIVED, AttackSpec, Column, Outcome, Panel, of_diffusion
from simulations.attack.target import ClientTarget


def run(target: ClientTarget, _: Any) -> Outcome:
    """What a probe reads of attributes (the mean over them) or, of images that have none, of the class."""
    seen, images = target.received, target.run.data.images
    if seen is None:
        return Outcome()
    rows, attributes = subsample_evenly(target.run.candidates[target.client], MAX_TARGETS), images.metadata.attributes
    wanted = [images.labels[rows]] if attributes is None else list(attributes[rows].T)
    seed, client = target.run.seed, target.client
    probed = [probe(seen.mean, labels, named_generator(seed, "probe", client)) for labels in wanted]
    read = [one for one in probed if one is not None]
    if not read:
        return Outcome()
    return Outcome(
        {
            "probe_auc": sum(one.auc for one in read) / len(read),
            "probe_auc_chance": CHANCE,
            "probe_accuracy": sum(one.accuracy for one in read) / len(read),
            "probe_accuracy_chance": sum(one.majority for one in read) / len(read),
        }
    )


ATTACK = AttackSpec(
    "attribute_inference",
    "probe: AUC of class or attributes.",
    RECEIVED,
    (Column("probe_auc", "probe", ".2f", "probe_auc_chance", "probe AUC", "AUC"),),
    run,
    of_diffusion,
    (Panel("Class or attribute read off", "AUC", {"probe": "probe_auc"}, "probe_auc_chance"),),
)
