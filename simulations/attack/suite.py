"""All attacks on one client of a finished run, as a row of numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.conditioning import conditioning_labels
from collafuse_flwr.data.images import normalize, subsample_evenly
from collafuse_flwr.privacy.attacks.attribute_inference import CHANCE, probe
from collafuse_flwr.privacy.attacks.membership_inference import (
    FALSE_ALARMS,
    denoising_losses,
    membership,
    predicted_noise_norms,
)
from collafuse_flwr.privacy.attacks.memorization import memorization
from collafuse_flwr.privacy.attacks.naming import reidentify
from collafuse_flwr.privacy.leakage_bounds import covariance_eigenvalues
from collafuse_flwr.privacy.mutual_information import denoised_bits, denoising_errors
from collafuse_flwr.runs.loaded_run import FinishedRun
from collafuse_flwr.runs.reidentification import MAX_CANDIDATES, candidate_set
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.attack.gradient_inversion import invert
from simulations.attack.reconstruction import BestReconstructions, rebuild
from simulations.attack.server_view import MAX_TARGETS, ServerView, clipped, received
from simulations.attack.shadow_models import ShadowAttacker

#: What is known of a client from the run's own summary.
KNOWN = ("client", "num_images", "cut_step", "snr_db", "bits", "dp_epsilon")
#: What is zero without information.
NOTHING = ("bits_chance", "dp_epsilon_chance")
#: Steps above the cut at which the backbone's error is measured for the bits, and images that it is measured on.
ERROR_STEPS, ERROR_IMAGES = 24, 256
#: SimA asks at the first step of a network's range and this share of T.
QUERY = 50


def attack(
    run: FinishedRun, known: dict[str, Any], shadow: ShadowAttacker, inversions: int
) -> tuple[dict[str, Any], BestReconstructions | None]:
    """The row of a client, whose row of the summary is `known`, and its worst images.

    Where weights leave the clients, `inversions` of the client's images are rebuilt from their gradient. What does not
    apply is not in the row: nothing is rebuilt where nothing was uploaded, and no network that is not there is asked
    for members.

    Raises:
        UserError: as `received`, or a network is missing.
    """
    client, cut = int(known["client"]), int(known["cut_step"])
    row: dict[str, Any] = {name: known.get(name) for name in KNOWN} | {"releases": 0} | dict.fromkeys(NOTHING, 0.0)
    names = candidate_set(run.data)
    seen, backbone, worst = received(run, client, names[client]), run.backbone, None
    if seen is not None:
        row["releases"] = seen.releases
        row |= _named(run, client, cut, seen, names)
        numbers, worst = rebuild(run, seen, cut, backbone, shadow)
        row |= numbers | _probed(run, client, names[client], seen, shadow.seed)
        if backbone is not None and cut:
            row["bits_denoised"] = _told(run, client, cut, seen, backbone, shadow.seed)
    if run.config.spec.averages_denoisers and backbone is not None and inversions:
        numbers, worst = invert(run, client, backbone, shadow, inversions)
        row |= numbers
    for name, network, steps in _networks(run, client, cut, backbone, uploaded=seen is not None):
        row |= _members(run, client, name, network, steps, shadow.seed)
    return row | _memorised(run, client, names, shadow.seed), worst


def _named(run: FinishedRun, client: int, cut: int, seen: ServerView, names: list[Tensor]) -> dict[str, Any]:
    """Re-identification among the training images of all clients: by all that was received, and by one release."""
    candidates, begin = clipped(run, torch.cat(names)), sum(len(rows) for rows in names[:client])
    truth = begin + subsample_evenly(torch.arange(len(names[client])), MAX_TARGETS)
    alpha_bar = float(run.setup.schedule.alpha_bar[cut])
    every, one = (reidentify(x, candidates, truth, alpha_bar) for x in (seen.mean, seen.last))
    return {"reid": every.rate, "reid_one": one.rate, "reid_n": every.candidates, "reid_chance": every.chance}


def _told(run: FinishedRun, client: int, cut: int, seen: ServerView, backbone: nn.Module, seed: int) -> float:
    """A bound on the bits that all releases disclose about an image, by the backbone's error above the cut.

    Of the same law as the Gaussian bound, that which draws one of the client's training images: of that law any
    estimate's error on these images is no less than the least, also where the backbone has learnt them by heart.
    Where labels travelled, the bits are those that the image adds to its label.
    """
    process = run.setup
    device, snr = process.runtime.device, process.schedule.snr()
    steps = torch.linspace(cut + 1, process.schedule.timesteps, ERROR_STEPS).round().long().unique()
    some = subsample_evenly(torch.arange(len(seen.x_0)), ERROR_IMAGES)
    errors = denoising_errors(
        process.schedule,
        process.objective.prediction,
        process.denoise(backbone.eval()),
        seen.x_0[some].to(device),
        steps,
        named_generator(seed, "bits", client),
        None if seen.labels is None else seen.labels[some].to(device),
    )
    eigenvalues = covariance_eigenvalues(clipped(run, run.data.partitions[client].train))
    return denoised_bits(seen.releases * float(snr[cut]), eigenvalues, snr[steps], errors)


def _probed(run: FinishedRun, client: int, rows: Tensor, seen: ServerView, seed: int) -> dict[str, Any]:
    """What the releases disclose about attributes (their mean) or, of images that have none, about the class."""
    images = run.data.images
    rows, known = subsample_evenly(rows, MAX_TARGETS), images.metadata.attributes
    asked = [images.labels[rows]] if known is None else list(known[rows].T)
    probed = [probe(seen.mean, labels, named_generator(seed, "probe", client)) for labels in asked]
    found = [one for one in probed if one is not None]
    if not found:
        return {}
    return {
        "probe_auc": sum(one.auc for one in found) / len(found),
        "probe_auc_chance": CHANCE,
        "probe_accuracy": sum(one.accuracy for one in found) / len(found),
        "probe_accuracy_chance": sum(one.majority for one in found) / len(found),
    }


def _networks(
    run: FinishedRun, client: int, cut: int, backbone: nn.Module | None, *, uploaded: bool
) -> Iterator[tuple[str, nn.Module, range]]:
    """The networks that a client's images went into, and the steps that they were trained on."""
    federated, last = run.config.spec.averages_denoisers, run.setup.schedule.timesteps
    if backbone is not None and (federated or uploaded):
        yield "backbone", backbone, range(1 if federated else cut + 1, last + 1)
    if cut:
        yield "denoiser", run.denoiser(client), range(1, cut + 1)


def _members(run: FinishedRun, client: int, name: str, network: nn.Module, steps: range, seed: int) -> dict[str, Any]:
    """Members are a client's training images, others its held-out images, both with their labels."""
    process, partition, images = run.setup, run.data.partitions[client], run.data.images
    config, device = run.config, process.runtime.device
    released = name == "backbone" and not config.spec.averages_denoisers
    known = conditioning_labels(config.data.conditioning, images) if config.shares_labels() or not released else None
    denoise, of = process.denoise(network.eval()), (process.schedule, process.objective.prediction)
    losses, norms = [], []
    for rows in (subsample_evenly(partition.train, MAX_TARGETS), subsample_evenly(partition.held_out, MAX_TARGETS)):
        x_0 = (clipped(run, rows) if released else normalize(images.images[rows])).to(device)
        labels = None if known is None else known[rows].to(device)
        losses.append(denoising_losses(*of, denoise, x_0, steps, seed, labels))
        query = min(steps[-1], steps[0] + process.schedule.timesteps // QUERY)
        norms.append(predicted_noise_norms(*of, denoise, x_0, query, labels))
    numbers: dict[str, Any] = {}
    for attack_name, (members, others) in {"loss": losses, "sima": norms}.items():
        found, key = membership(members, others), f"membership_{name}_{attack_name}"
        numbers |= {f"{key}_auc": found.auc, f"{key}_auc_chance": CHANCE, f"{key}_auc_error": found.error}
        numbers |= {f"{key}_tpr": found.tpr, f"{key}_tpr_chance": FALSE_ALARMS}
    return numbers


def _memorised(run: FinishedRun, client: int, names: list[Tensor], seed: int) -> dict[str, Any]:
    """Whether a client's samples are nearer to the training images of the federation than to those held out."""
    path = RunLayout(run.folder).client(client).samples
    if not path.is_file():
        return {}
    samples = load_file(path)["images"]
    held_out = torch.cat([partition.held_out for partition in run.data.partitions]).unique()
    rows = torch.cat(names).unique(), subsample_evenly(held_out, MAX_CANDIDATES)
    training, others = (normalize(run.data.images.images[own]) for own in rows)
    chosen = samples[subsample_evenly(torch.arange(len(samples)), MAX_TARGETS)]
    found = memorization(chosen, training, others, named_generator(seed, "memorisation", client))
    return {
        "memorisation": found.share,
        "memorisation_chance": found.chance,
        "memorisation_ratio": found.ratio,
        "memorisation_ratio_chance": 1.0,
    }
