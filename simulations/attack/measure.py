"""All attacks on one client of a finished run, as a row of numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from collafuse_flwr.artifacts.exposure import MAX_CANDIDATES, line_up
from collafuse_flwr.config import FEDERATED
from collafuse_flwr.data import evenly, labels_of, to_model_space
from collafuse_flwr.folders import client_folder
from collafuse_flwr.privacy.attacks import (
    denoising_losses,
    membership,
    memorisation,
    predicted_noise_norms,
    probe,
    reidentify,
)
from collafuse_flwr.privacy.attacks.members import FALSE_ALARMS
from collafuse_flwr.privacy.attacks.probing import CHANCE
from collafuse_flwr.privacy.disclosure import covariance_eigenvalues
from collafuse_flwr.privacy.information import denoised_bits, denoising_errors
from collafuse_flwr.rng import stream
from simulations.attack.inverting import invert
from simulations.attack.rebuilding import Worst, rebuild
from simulations.attack.received import MAX_TARGETS, Received, clipped, received
from simulations.attack.shadow import Shadow
from simulations.finished import Finished

#: What is known of a client from the run's own summary.
KNOWN = ("client", "num_images", "cut_step", "snr_db", "bits", "dp_epsilon")
#: What is zero without information.
NOTHING = ("bits_chance", "dp_epsilon_chance")
#: Steps above the cut at which the backbone's error is measured for the bits, and images that it is measured on.
ERROR_STEPS, ERROR_IMAGES = 24, 256
#: SimA asks at the first step of a network's range and this share of T.
QUERY = 50


def attack(
    run: Finished, known: dict[str, Any], shadow: Shadow, inversions: int
) -> tuple[dict[str, Any], Worst | None]:
    """The row of a client, whose row of the summary is `known`, and its worst images.

    Where weights leave the clients, `inversions` of the client's images are rebuilt from their gradient. What does not
    apply is not in the row: nothing is rebuilt where nothing was uploaded, and no network that is not there is asked
    for members.

    Raises:
        UserError: as `received`, or a network is missing.
    """
    client, cut = int(known["client"]), int(known["cut_step"])
    row: dict[str, Any] = {name: known.get(name) for name in KNOWN} | {"releases": 0} | dict.fromkeys(NOTHING, 0.0)
    names = line_up(run.data)
    seen, backbone, worst = received(run, client, names[client]), run.backbone, None
    if seen is not None:
        row["releases"] = seen.releases
        row |= _named(run, client, cut, seen, names)
        numbers, worst = rebuild(run, seen, cut, backbone, shadow)
        row |= numbers | _probed(run, client, names[client], seen, shadow.seed)
        if backbone is not None and cut:
            row["bits_denoised"] = _told(run, client, cut, seen, backbone, shadow.seed)
    if run.process.config.run.strategy in FEDERATED and backbone is not None and inversions:
        numbers, worst = invert(run, client, backbone, shadow, inversions)
        row |= numbers
    for name, network, steps in _networks(run, client, cut, backbone, uploaded=seen is not None):
        row |= _members(run, client, name, network, steps, shadow.seed)
    return row | _memorised(run, client, names, shadow.seed), worst


def _named(run: Finished, client: int, cut: int, seen: Received, names: list[Tensor]) -> dict[str, Any]:
    """Re-identification among the training images of all clients: by all that was received, and by one release."""
    candidates, begin = clipped(run, torch.cat(names)), sum(len(rows) for rows in names[:client])
    truth = begin + evenly(torch.arange(len(names[client])), MAX_TARGETS)
    alpha_bar = float(run.process.schedule.alpha_bar[cut])
    every, one = (reidentify(x, candidates, truth, alpha_bar) for x in (seen.mean, seen.last))
    return {"reid": every.rate, "reid_one": one.rate, "reid_n": every.candidates, "reid_chance": every.chance}


def _told(run: Finished, client: int, cut: int, seen: Received, backbone: nn.Module, seed: int) -> float:
    """The bits that all releases tell about an image, at most, by the backbone's error above the cut.

    Of the same law as the Gaussian bound, that which draws one of the client's training images: of that law any
    estimate's error on these images is no less than the least, also where the backbone has learnt them by heart.
    Where labels travelled, the bits are those that the image adds to its label.
    """
    process = run.process
    device, snr = process.runtime.device, process.schedule.snr()
    steps = torch.linspace(cut + 1, process.schedule.timesteps, ERROR_STEPS).round().long().unique()
    some = evenly(torch.arange(len(seen.x_0)), ERROR_IMAGES)
    errors = denoising_errors(
        process.schedule,
        process.objective.prediction,
        process.denoise(backbone.eval()),
        seen.x_0[some].to(device),
        steps,
        stream(seed, "bits", client),
        None if seen.labels is None else seen.labels[some].to(device),
    )
    eigenvalues = covariance_eigenvalues(clipped(run, run.data.partitions[client].train))
    return denoised_bits(seen.releases * float(snr[cut]), eigenvalues, snr[steps], errors)


def _probed(run: Finished, client: int, rows: Tensor, seen: Received, seed: int) -> dict[str, Any]:
    """What the releases tell about attributes (their mean) or, of images that have none, about the class."""
    images = run.data.images
    rows, known = evenly(rows, MAX_TARGETS), images.facts.attributes
    asked = [images.labels[rows]] if known is None else list(known[rows].T)
    probed = [probe(seen.mean, labels, stream(seed, "probe", client)) for labels in asked]
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
    run: Finished, client: int, cut: int, backbone: nn.Module | None, *, uploaded: bool
) -> Iterator[tuple[str, nn.Module, range]]:
    """The networks that a client's images went into, and the steps that they were trained on."""
    federated, last = run.process.config.run.strategy in FEDERATED, run.process.schedule.timesteps
    if backbone is not None and (federated or uploaded):
        yield "backbone", backbone, range(1 if federated else cut + 1, last + 1)
    if cut:
        yield "denoiser", run.denoiser(client), range(1, cut + 1)


def _members(run: Finished, client: int, name: str, network: nn.Module, steps: range, seed: int) -> dict[str, Any]:
    """Members are a client's training images, others its held-out images, both with their labels."""
    process, partition, images = run.process, run.data.partitions[client], run.data.images
    config, device = process.config, process.runtime.device
    released = name == "backbone" and config.run.strategy not in FEDERATED
    known = labels_of(config, images) if config.shares_labels() or not released else None
    denoise, of = process.denoise(network.eval()), (process.schedule, process.objective.prediction)
    losses, norms = [], []
    for rows in (evenly(partition.train, MAX_TARGETS), evenly(partition.held_out, MAX_TARGETS)):
        x_0 = (clipped(run, rows) if released else to_model_space(images.images[rows])).to(device)
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


def _memorised(run: Finished, client: int, names: list[Tensor], seed: int) -> dict[str, Any]:
    """Whether a client's samples are nearer to the training images of the federation than to those held out."""
    path = client_folder(run.folder, client) / "samples.safetensors"
    if not path.is_file():
        return {}
    samples = load_file(path)["images"]
    held_out = torch.cat([partition.held_out for partition in run.data.partitions]).unique()
    rows = torch.cat(names).unique(), evenly(held_out, MAX_CANDIDATES)
    training, others = (to_model_space(run.data.images.images[own]) for own in rows)
    chosen = samples[evenly(torch.arange(len(samples)), MAX_TARGETS)]
    found = memorisation(chosen, training, others, stream(seed, "memorisation", client))
    return {
        "memorisation": found.share,
        "memorisation_chance": found.chance,
        "memorisation_ratio": found.ratio,
        "memorisation_ratio_chance": 1.0,
    }
