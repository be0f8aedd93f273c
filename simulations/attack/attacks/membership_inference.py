"""Telling training images from held-out ones by what networks make of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from collafuse_flwr.data.conditioning import conditioning_labels
from collafuse_flwr.data.images import normalize, subsample_evenly
from collafuse_flwr.privacy.attacks.attribute_inference import CHANCE
from collafuse_flwr.privacy.attacks.membership_inference import (
    FALSE_ALARMS,
    denoising_losses,
    membership,
    predicted_noise_norms,
)
from simulations.attack.server_view import MAX_TARGETS, clipped
from simulations.attack.spec import NETWORKS, AttackSpec, Column, Outcome, Panel, of_diffusion
from simulations.attack.target import ClientTarget

#: SimA asks at the first step of a network's range and this share of T.
QUERY = 50
#: The networks and the attacks on them, and what they are called.
OWNERS = {"backbone": "server", "denoiser": "client"}
SCORES = {"loss": "loss", "sima": "SimA"}


def run(target: ClientTarget, _: Any) -> Outcome:
    """Of every network that the client's images went into; none that is not there is attacked."""
    numbers: dict[str, Any] = {}
    for name, network, steps in _networks(target):
        numbers |= _members(target, name, network, steps)
    return Outcome(numbers)


def _networks(target: ClientTarget) -> Iterator[tuple[str, nn.Module, range]]:
    """The networks that a client's images went into, and the steps that they were trained on."""
    finished, cut = target.run.diffusion, target.cut
    federated, last = finished.config.spec.averages_denoisers, finished.setup.schedule.timesteps
    every = federated or finished.config.deconvolution.iterations > 0
    if finished.backbone is not None and (federated or target.received is not None):
        yield "backbone", finished.backbone, range(1 if every else cut + 1, last + 1)
    if cut:
        yield "denoiser", finished.denoiser(target.client), range(1, cut + 1)


def _members(target: ClientTarget, name: str, network: nn.Module, steps: range) -> dict[str, Any]:
    """Members are a client's training images, others its held-out images, both with their labels."""
    finished, seed = target.run.diffusion, target.run.seed
    process, partition, images = finished.setup, finished.data.partitions[target.client], finished.data.images
    config, device = finished.config, process.runtime.device
    released = name == "backbone" and not config.spec.averages_denoisers
    conditions = (
        conditioning_labels(config.data.conditioning, images) if config.shares_labels() or not released else None
    )
    denoise, of = process.denoise(network.eval()), (process.schedule, process.objective.prediction)
    losses, norms = [], []
    for rows in (subsample_evenly(partition.train, MAX_TARGETS), subsample_evenly(partition.held_out, MAX_TARGETS)):
        x_0 = (clipped(finished, rows) if released else normalize(images.images[rows])).to(device)
        labels = None if conditions is None else conditions[rows].to(device)
        losses.append(denoising_losses(*of, denoise, x_0, steps, seed, labels))
        query = min(steps[-1], steps[0] + process.schedule.timesteps // QUERY)
        norms.append(predicted_noise_norms(*of, denoise, x_0, query, labels))
    numbers: dict[str, Any] = {}
    for score, (members, others) in {"loss": losses, "sima": norms}.items():
        result, key = membership(members, others), f"membership_{name}_{score}"
        numbers |= {f"{key}_auc": result.auc, f"{key}_auc_chance": CHANCE, f"{key}_auc_error": result.error}
        numbers |= {f"{key}_tpr": result.tpr, f"{key}_tpr_chance": FALSE_ALARMS}
    return numbers


def _keys() -> Iterator[tuple[str, str, str]]:
    """Each AUC's key, its network and its score in words."""
    for network, owner in OWNERS.items():
        for score, title in SCORES.items():
            yield f"membership_{network}_{score}_auc", owner, title


ATTACK = AttackSpec(
    "membership_inference",
    "AUC of membership in the training of the server's and of the client's network, by loss and by SimA, with its "
    "error.",
    NETWORKS,
    (
        *(
            Column(key, f"{owner} {score}", ".2f", f"{key}_chance", f"members, {owner} {score}", "AUC")
            for key, owner, score in _keys()
        ),
        Column("membership_denoiser_loss_auc_error", "error"),
    ),
    run,
    of_diffusion,
    (
        Panel(
            "Training image recognised",
            "AUC",
            {f"{owner}, {score}": key for key, owner, score in _keys()},
            CHANCE,
        ),
    ),
)
