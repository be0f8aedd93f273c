"""Whether a client's samples are nearer to training images of the federation than to those held out."""

from __future__ import annotations

from typing import Any

import torch

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.tensor_io import read_tensors
from collafuse_flwr.data.images import normalize, subsample_evenly
from collafuse_flwr.privacy.attacks.memorization import memorization
from collafuse_flwr.runs.reidentification import MAX_CANDIDATES
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.attack.server_view import MAX_TARGETS
from simulations.attack.spec import NETWORKS, AttackSpec, Column, Outcome, Panel, of_diffusion
from simulations.attack.target import ClientTarget


def run(target: ClientTarget, _: Any) -> Outcome:
    """The share of samples whose nearest image was trained on, and the ratio of both distances."""
    attacked = target.run
    path = RunLayout(attacked.folder).client(target.client).samples
    if not path.is_file():
        return Outcome()
    images = attacked.data.images.pixels
    samples = attacked.data.images.decode(read_tensors(path)[0]["images"])
    held_out = torch.cat([partition.held_out for partition in attacked.data.partitions]).unique()
    rows = torch.cat(attacked.candidates).unique(), subsample_evenly(held_out, MAX_CANDIDATES)
    training, others = (normalize(images[own]) for own in rows)
    chosen = samples[subsample_evenly(torch.arange(len(samples)), MAX_TARGETS)]
    generator = named_generator(attacked.seed, "memorisation", target.client)
    result = memorization(chosen, training, others, generator)
    return Outcome(
        {
            "memorisation": result.share,
            "memorisation_chance": result.chance,
            "memorisation_ratio": result.ratio,
            "memorisation_ratio_chance": 1.0,
        }
    )


ATTACK = AttackSpec(
    "memorization",
    "repeats: samples whose nearest image was trained on; ratio: distance to such over that to others.",
    NETWORKS,
    (
        Column("memorisation", "repeats", chance="memorisation_chance"),
        Column("memorisation_ratio", "ratio", chance="memorisation_ratio_chance"),
    ),
    run,
    of_diffusion,
    (
        Panel(
            "Samples repeat training images", "share", {"nearest is trained on": "memorisation"}, "memorisation_chance"
        ),
    ),
)
