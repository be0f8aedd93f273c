"""The cuts of a run's clients, as its settings say how they are planned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import cast

from collafuse_flwr.config.config import Config
from collafuse_flwr.config.devices import parse_slowdowns
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.gan.networks import Architecture, Cuts
from collafuse_flwr.gan.planning.block_cost import LatencyVariant, measure
from collafuse_flwr.gan.planning.cut_planner import CutPlan, plan_cuts
from collafuse_flwr.gan.planning.genetic import evolve_cuts
from collafuse_flwr.gan.planning.latency_model import LatencyModel, build_latency_model
from collafuse_flwr.gan.split_gan.precision import DTYPES
from collafuse_flwr.setup.gan import configured_cuts, min_cuts


def select_cuts(config: Config, architecture: Architecture) -> tuple[Cuts, ...]:
    """The cuts of every client: `split_gan.client_cuts`, else planned for `devices.profiles`, else the least allowed.

    Raises:
        UserError: they are not cuts, not one for each client, or none fits.
    """
    if config.devices.profiles and not config.split_gan.client_cuts:
        return plan_client_cuts(config, architecture).cuts
    cuts = configured_cuts(config)
    for own in cuts:
        own.check(architecture)
    return cuts


def spare_cuts(config: Config) -> Cuts | None:
    """The least that a client may come to keep; None where cuts stay, and the server needs no blocks for that."""
    return min_cuts(config) if config.split_gan.replan_rounds else None


def plan_client_cuts(config: Config, architecture: Architecture) -> CutPlan:
    """Cuts for the devices that the settings name, by `cut_planner.algorithm`.

    Raises:
        UserError: no devices are named, or no cut keeps to the required least and fits a device's memory.
    """
    planner, least = config.cut_planner, min_cuts(config)
    if planner.algorithm == "exact":
        return plan_cuts(configured_latency_model(config, architecture), least)
    return evolve_cuts(
        configured_latency_model(config, architecture, alike=False),
        least,
        population=planner.population,
        generations=planner.generations,
        seed=config.run.seed,
    )


def modelled_seconds(config: Config, architecture: Architecture, cuts: Sequence[Cuts], round_: int = 1) -> float | None:
    """What an iteration should take the devices that the settings name, with one cut for each; None if they name none.

    It is one of the round, as `devices.slowdowns` may have it.

    Raises:
        SettingError: the devices are not one for each client.
    """
    if not config.devices.profiles:
        return None
    model = configured_latency_model(config, architecture, alike=False, slowness=simulated_slowness(config, round_))
    return float(model.seconds(model.extra(cuts)))


def simulated_slowness(config: Config, round_: int) -> tuple[float, ...]:
    """How many times as long as its device should each client computes in a round of a simulation."""
    return parse_slowdowns(config.devices.slowdowns, config.run.num_supernodes, round_)


def configured_latency_model(
    config: Config,
    architecture: Architecture,
    *,
    alike: bool = True,
    links: bool = True,
    slowness: Sequence[float] = (),
) -> LatencyModel:
    """The model of an iteration with these settings; without `links` nothing takes time but compute.

    With `slowness` each client computes so many times as long as its device should.

    Raises:
        SettingError: no devices are named.
    """
    devices, server, settings = config.client_devices(), config.server_device(), config.devices
    if not devices:
        raise SettingError(
            "devices.profiles", "", "the clients' devices, to plan for: paper7, or each client's with commas"
        )
    model = cast(LatencyVariant, settings.latency_model)
    cost = _measure(architecture, config.gan.batch_size, model, DTYPES[config.gan.wire_dtype].itemsize)
    if slowness:
        devices = tuple(replace(own, flops=own.flops / times) for own, times in zip(devices, slowness, strict=True))
    if not links:
        devices = tuple(replace(device, link=math.inf) for device in devices)
        server = replace(server, link=math.inf)
    latency = settings.message_seconds if links else 0.0
    return build_latency_model(cost, devices, server, model=model, message_latency=latency, alike=alike)


#: It runs the networks, and cuts may be planned after every round.
_measure = cache(measure)
