"""How long a round of CollaFuse should take a client: its operations at its device's rate, and bytes over its link."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import partial

import numpy as np

from collafuse_flwr.config.config import Config
from collafuse_flwr.config.sections import FEDERATED
from collafuse_flwr.config.training_budget import (
    client_start_round,
    client_step_share,
    starts_from_backbone,
    updates_per_round,
)
from collafuse_flwr.core.errors import UserError
from collafuse_flwr.evaluation.cost import training_flops


@dataclass(frozen=True)
class WorkUnit:
    """What a client's work is counted in: operations of a forward pass, bytes of its network and of one upload."""

    flops: int
    network: int
    upload: int

    @classmethod
    def of(cls, config: Config, flops: int, network: int, image_values: int, num_attributes: int = 0) -> WorkUnit:
        """The units of images with so many values, which travel with their class (8 bytes) or attributes if shared."""
        label = (num_attributes or 8) if config.shares_labels() else 0
        return cls(flops, network, image_values * np.dtype(config.split.upload_dtype).itemsize + label)


@dataclass(frozen=True)
class RoundCost:
    """A client's work in one round."""

    flops: float
    bytes_up: float
    bytes_down: float


def round_cost(config: Config, unit: WorkUnit, num_images: int, cut: int, round_: int) -> RoundCost:
    """What a client with so many images has to do in a round, before whole batches are made of it.

    Messages' envelopes and evaluations are left out. What waits for the backbone is made up for evenly.
    """
    rounds, steps, split = config.run.num_rounds, config.model.timesteps, config.split
    begins = client_start_round(config, rounds) if starts_from_backbone(config, cut) else 1
    due = updates_per_round(config, num_images, client_step_share(config, cut))
    updates = due * rounds / (rounds - begins + 1) if round_ >= begins else 0.0
    before = 0 if split.upload == "once" else (round_ - 1) * split.copies_per_image
    allowed = not split.max_releases or before + split.copies_per_image <= split.max_releases
    uploads = cut < steps and allowed and (round_ == 1 or split.upload != "once")
    exchanged = unit.network * (config.run.strategy in ("hybrid", *FEDERATED))
    return RoundCost(
        training_flops(unit.flops, 1) * updates,
        uploads * num_images * split.copies_per_image * unit.upload + exchanged,
        (starts_from_backbone(config, cut) and round_ == begins) * unit.network + exchanged,
    )


def round_seconds(config: Config, unit: WorkUnit, num_images: int, client: int, cut: int) -> float:
    """The longest round that is predicted for a client on its device, which `devices` must name."""
    device = config.client_devices()[client]
    loads = (round_cost(config, unit, num_images, cut, round_) for round_ in range(1, config.run.num_rounds + 1))
    return max(device.seconds(load.flops, load.bytes_up + load.bytes_down) for load in loads)


def largest_cut_within_time(config: Config, unit: WorkUnit, num_images: int, client: int) -> int:
    """The largest k in 1..T - 1 at which no round should take longer than `cut_seconds`; a larger k never takes less.

    Raises:
        UserError: there is none.
    """
    most, steps = float(config.split.cut_seconds), range(1, config.model.timesteps)
    seconds = partial(round_seconds, config, unit, num_images, client)
    found = bisect.bisect_right(steps, most, key=seconds)
    if not found:
        device = config.client_devices()[client].name
        raise UserError(
            f"`cut_seconds` = {most:g} cannot be met by client {client} (device {device}): even at cut step 1 of "
            f"{config.model.timesteps} a round would take it {seconds(1):.3g} s"
        )
    return steps[found - 1]
