"""How long a round of CollaFuse should take a client: its operations at its device's rate, and bytes over its link."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import partial

import numpy as np

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import UserError
from collafuse_flwr.evaluation.cost import training_flops
from collafuse_flwr.setup.training_budget import (
    client_start_round,
    planned_updates,
    starts_from_backbone,
)


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
        return cls(flops, network, image_values * np.dtype(config.upload.dtype).itemsize + label)


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
    rounds, steps, upload = config.run.num_rounds, config.diffusion.timesteps, config.upload
    begins = client_start_round(config, rounds) if starts_from_backbone(config, cut) else 1
    updates = planned_updates(config, num_images, cut, round_)
    before = 0 if upload.noise == "fixed" else (round_ - 1) * upload.draws_per_image
    allowed = not upload.max_releases or before + upload.draws_per_image <= upload.max_releases
    uploads = cut < steps and allowed and (round_ == 1 or upload.noise != "fixed")
    exchanged = unit.network * bool(config.spec.shared_parts)
    starts = starts_from_backbone(config, cut) or (config.diffusion.start_from and not config.spec.averages_denoisers)
    return RoundCost(
        training_flops(unit.flops, 1) * updates,
        uploads * num_images * upload.draws_per_image * unit.upload + exchanged,
        bool(starts and cut and round_ == begins) * unit.network + exchanged,
    )


def round_seconds(config: Config, unit: WorkUnit, num_images: int, client: int, cut: int) -> float:
    """The longest round that is predicted for a client on its device, which `devices.profiles` must name."""
    device = config.client_devices()[client]
    loads = (round_cost(config, unit, num_images, cut, round_) for round_ in range(1, config.run.num_rounds + 1))
    return max(device.seconds(load.flops, load.bytes_up + load.bytes_down) for load in loads)


def largest_cut_within_time(config: Config, unit: WorkUnit, num_images: int, client: int) -> int:
    """The largest k in 1..T - 1 at which no round should take longer than `cut.target` seconds.

    A larger k never takes less.

    Raises:
        UserError: there is none.
    """
    most, steps = config.cut.target, range(1, config.diffusion.timesteps)
    seconds = partial(round_seconds, config, unit, num_images, client)
    largest = bisect.bisect_right(steps, most, key=seconds)
    if not largest:
        device = config.client_devices()[client].name
        raise UserError(
            f"`cut.target` = {most:g} s cannot be met by client {client} (device {device}): even at cut step 1 of "
            f"{config.diffusion.timesteps} a round would take it {seconds(1):.3g} s"
        )
    return steps[largest - 1]
