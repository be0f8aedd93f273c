"""The cuts of a run's clients, as its settings say how they are planned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from collafuse_flwr.config import Config
from collafuse_flwr.errors import SettingError
from collafuse_flwr.gan.blocks import Architecture, Cuts
from collafuse_flwr.gan.costs import LatencyModel, measure
from collafuse_flwr.gan.genetic import evolve_cuts
from collafuse_flwr.gan.latency import Iteration, iteration
from collafuse_flwr.gan.planner import Plan, plan_cuts
from collafuse_flwr.gan.settings import given_cuts, least_cuts
from collafuse_flwr.gan.travel import DTYPES


def cuts_of(config: Config, architecture: Architecture) -> tuple[Cuts, ...]:
    """The cuts of every client: as `client_cuts` says, else planned for their `devices`, else the least allowed.

    Raises:
        UserError: they are not cuts, not one for each client, or none fits.
    """
    if config.hardware.devices and not config.gan.client_cuts:
        return choose_cuts(config, architecture).cuts
    return given_cuts(config)


def choose_cuts(config: Config, architecture: Architecture) -> Plan:
    """Cuts for the devices that the settings name, by `planner`.

    Raises:
        UserError: no devices are named, or no cut keeps to the least that is asked for and fits a device's memory.
    """
    hardware, least = config.hardware, least_cuts(config)
    if hardware.planner == "exact":
        return plan_cuts(model_of(config, architecture), least)
    return evolve_cuts(
        model_of(config, architecture, alike=False),
        least,
        population=hardware.genetic_population,
        generations=hardware.genetic_generations,
        seed=config.run.seed,
    )


def modelled_seconds(config: Config, architecture: Architecture, cuts: Sequence[Cuts]) -> float | None:
    """What an iteration should take the devices that the settings name, with one cut for each; None if they name none.

    Raises:
        SettingError: the devices are not one for each client.
    """
    if not config.hardware.devices:
        return None
    model = model_of(config, architecture, alike=False)
    return float(model.seconds(model.extra(cuts)))


def model_of(config: Config, architecture: Architecture, *, alike: bool = True, links: bool = True) -> Iteration:
    """The model of an iteration with these settings; without `links` nothing takes time but compute.

    Raises:
        SettingError: no devices are named.
    """
    devices, server, hardware = config.client_devices(), config.server_device(), config.hardware
    if not devices:
        raise SettingError("devices", "", "the clients' devices, to plan for: paper7, or each client's with commas")
    model = cast(LatencyModel, hardware.latency_model)
    cost = measure(architecture, config.gan.gan_batch_size, model, DTYPES[config.gan.wire_dtype].itemsize)
    if not links:
        devices = tuple(replace(device, link=math.inf) for device in devices)
        server = replace(server, link=math.inf)
    latency = hardware.message_latency if links else 0.0
    return iteration(cost, devices, server, model=model, message_latency=latency, alike=alike)
