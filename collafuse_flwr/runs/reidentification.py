"""How far the training images of a run can be named from what was released of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.federated import FederationData
from collafuse_flwr.data.images import normalize, subsample_evenly
from collafuse_flwr.diffusion.schedule import make_schedule
from collafuse_flwr.privacy.reidentification import reidentification_rate
from collafuse_flwr.runs.cost_report import released_cut
from collafuse_flwr.setup.privacy import clip

#: Images among which one is looked for; in float32, 10,000 of 64 x 64 pixels in three colours take 0.5 GB.
MAX_CANDIDATES = 10_000


def reidentification(config: Config, data: FederationData, clients: list[dict[str, Any]]) -> dict[str, float | None]:
    """Add `reid` and `reid_chance` to every client's row, and give both for all clients: the largest rate.

    `reid` is the rate at which an image is named from its releases among the candidates, and `reid_chance` that of a
    guess; `reid` is None for a client that released nothing. Candidates are all training images of the federation, or,
    of more than `MAX_CANDIDATES`, equally many of every client, at even distances, and all of those that have fewer;
    `reid_candidates` says how many. Among fewer candidates an image is named more often, never less.
    """
    chosen = candidate_set(data)
    rows = torch.cat(chosen)
    starts = torch.tensor([0, *map(len, chosen)]).cumsum(0).tolist()
    candidates = clip(config, normalize(data.images.images[rows]))
    schedule, chance = make_schedule(config.diffusion.schedule, config.diffusion.timesteps), 1 / len(rows)
    for client in clients:
        number, releases = client["client"], client["releases"]
        client |= {"reid": None, "reid_chance": chance}
        if releases:
            client["reid"] = reidentification_rate(
                candidates,
                torch.arange(starts[number], starts[number + 1]),
                float(schedule.alpha_bar[released_cut(client)]),
                releases=releases,
                generator=named_generator(config.run.seed, "reid", number),
            )
    rates = [client["reid"] for client in clients if client["reid"] is not None]
    return {"reid": max(rates, default=None), "reid_chance": chance, "reid_candidates": len(rows)}


def candidate_set(data: FederationData) -> list[Tensor]:
    """The training images, as rows of the data set, among which one is looked for: those of each client."""
    share = _equal_share([len(partition.train) for partition in data.partitions], MAX_CANDIDATES)
    return [subsample_evenly(partition.train, share) for partition in data.partitions]


def _equal_share(sizes: list[int], total: int) -> int:
    """The largest q >= 1 with sum(min(size, q)) <= total."""
    left = total
    for served, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - served)
        if size > share:
            return max(1, share)
        left -= size
    return max(sizes)
