"""The work of a run of denoisers, round by round, in forward passes of a network on one image."""

from __future__ import annotations

from collections.abc import Collection

from collafuse_flwr.config.config import Config
from collafuse_flwr.evaluation.classifier import default_steps
from collafuse_flwr.evaluation.tstr import tstr_batch_size
from collafuse_flwr.setup.training_budget import deconvolution_rounds, planned_updates, updates_per_round

#: Forward passes that a step of training takes for an image (`evaluation.cost.training_flops`).
TRAINING = 3.0


def planned_work(config: Config, clients: Collection[tuple[int, int]], *, measured: bool) -> dict[str, list[float]]:
    """For each part of a round its work in every round and, as the last entry, after the last one.

    Clients' and backbone's networks are counted alike.

    Args:
        config: the settings.
        clients: the images and the cut step of each.
        measured: whether samples are measured at the end, as in a simulation.
    """
    rounds, share = config.run.num_rounds, config.federation.fraction_train
    sampled = config.evaluation.num_samples * (config.sampling.steps or config.diffusion.timesteps)
    # Within the last evaluation.
    tuned = TRAINING * config.averaging.finetune_epochs * sum(images for images, _ in clients)
    return {
        "clients": [
            TRAINING * share * sum(planned_updates(config, *own, round_) for own in clients)
            for round_ in range(1, rounds + 1)
        ]
        + [0.0],
        "backbone": [_backbone(config, clients, round_) for round_ in range(1, rounds + 1)] + [0.0],
        "sampling": [sampled * config.evaluates(round_) + tuned * (round_ == rounds) for round_ in range(1, rounds + 1)]
        + [0.0],
        "measuring": [0.0] * rounds + [TRAINING * _classified(config, clients) * measured],
    }


def _backbone(config: Config, clients: Collection[tuple[int, int]], round_: int) -> float:
    """The server's work in a round; none where it averages."""
    if "images" not in config.spec.sends:
        return 0.0
    last, rounds = config.diffusion.timesteps, deconvolution_rounds(config)
    denoised = bool(rounds) and round_ >= min(rounds)
    updates = (updates_per_round(config, images, 1.0 if denoised else 1 - cut / last) for images, cut in clients)
    training = TRAINING * config.server.update_multiplier * sum(updates)
    if round_ not in rounds:
        return training
    steps = config.deconvolution.sampling_steps or last
    return training + sum(images * min(cut, steps) for images, cut in clients)


def _classified(config: Config, clients: Collection[tuple[int, int]]) -> float:
    """Images that classifiers train on: one on real images, and those on samples by `evaluation.tstr`."""
    own = config.evaluation
    sets = [own.num_samples] * (own.tstr != "none")
    sets += [own.num_samples // len(clients)] * len(clients) * (own.tstr == "clients")
    batches = [(count, tstr_batch_size(count)) for count in sets]
    batches.append((sum(images for images, _ in clients), 128))
    return float(sum(default_steps(count, batch) * min(batch, count) for count, batch in batches))
