"""Naming the image behind what was received, among the training images of all clients."""

from __future__ import annotations

from typing import Any

import torch

from collafuse_flwr.data.images import subsample_evenly
from collafuse_flwr.privacy.reidentification import reidentify
from simulations.attack.server_view import MAX_TARGETS, clipped
from simulations.attack.spec import RECEIVED, AttackSpec, Column, Outcome, Panel, of_diffusion
from simulations.attack.target import ClientTarget


def run(target: ClientTarget, _: Any) -> Outcome:
    """The rate of images that are named: by all that was received, and by one release."""
    seen, names, client = target.received, target.run.candidates, target.client
    if seen is None:
        return Outcome()
    finished = target.run.diffusion
    candidates, begin = clipped(finished, torch.cat(names)), sum(len(rows) for rows in names[:client])
    truth = begin + subsample_evenly(torch.arange(len(names[client])), MAX_TARGETS)
    alpha_bar = float(finished.setup.schedule.alpha_bar[target.cut])
    every, one = (reidentify(x, candidates, truth, alpha_bar) for x in (seen.mean, seen.last))
    return Outcome({"reid": every.rate, "reid_one": one.rate, "reid_n": every.candidates, "reid_chance": every.chance})


ATTACK = AttackSpec(
    "reidentification",
    "re-id: images named among all training images.",
    RECEIVED,
    (
        Column("reid", "re-id", ".3f", "reid_chance", "re-id, all releases", "rate of images named", 3),
        Column("reid_one", chance="reid_chance", title="re-id, one release", axis="rate of images named", digits=3),
    ),
    run,
    of_diffusion,
    (Panel("Image named among all", "rate", {"all releases": "reid", "one release": "reid_one"}, "reid_chance"),),
)
