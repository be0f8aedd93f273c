"""Cuts of the split GAN planned anew, from how long its clients took.

Of client i a batch took m_i seconds on the server's clock. Its model says l_i for transfers and c_i for compute at the
speed of its device, so it is

    q_i = clamp((m_i - l_i) / c_i, 1 / SPAN, SPAN)

times as slow as that device. Only clients whose q is off by a factor of DRIFT from the one that they were planned with
are planned anew, all others' cuts being fixed; and new cuts are taken only if an iteration should then take a share of
GAIN less. So noise moves no cut, and one client's trouble none but its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.gan.networks import NETS, Architecture, Cuts
from collafuse_flwr.gan.planning.cut_planner import bounds, plan_within
from collafuse_flwr.gan.planning.latency_model import FloatArray
from collafuse_flwr.setup.gan import min_cuts
from collafuse_flwr.setup.gan_cuts import configured_latency_model, simulated_slowness

#: The most that a client is believed to differ from its device; by how much it must have changed; what it must save.
SPAN, DRIFT, GAIN = 32.0, 1.5, 0.05


@dataclass(frozen=True)
class Replan:
    """New cuts of all clients, how slow each is now planned to be, and the modelled seconds of an iteration."""

    cuts: tuple[Cuts, ...]
    slowness: tuple[float, ...]
    seconds_before: float
    seconds: float


def batch_seconds(
    config: Config, architecture: Architecture, cuts: Sequence[Cuts], slowness: Sequence[float] = (), links: bool = True
) -> FloatArray:
    """What a batch should take each client itself, compute and, with `links`, transfers: (clients,)."""
    model = configured_latency_model(config, architecture, alike=False, links=links, slowness=slowness)
    seconds: FloatArray = model.passes(model.extra(cuts)).sum(0)
    return seconds


def simulated_seconds(
    config: Config, architecture: Architecture, cuts: Sequence[Cuts], round_: int
) -> dict[int, float]:
    """What a batch takes each client of a simulation in a round: what its device, slowed down or not, should take."""
    seconds = batch_seconds(config, architecture, cuts, simulated_slowness(config, round_))
    return dict(enumerate(seconds.tolist()))


def replan(
    config: Config,
    architecture: Architecture,
    cuts: Sequence[Cuts],
    slowness: Sequence[float],
    measured: Mapping[int, float],
    least: Mapping[int, Cuts],
) -> Replan | None:
    """Cuts that suit the clients as they were measured; None where those that they have are good enough.

    Args:
        config: of the run.
        architecture: its nets.
        cuts: of all clients.
        slowness: q that each was planned with.
        measured: seconds of a batch of some clients; others keep their cut.
        least: cuts that some clients are not planned below, beside `split_gan.min_cut`.
    """
    compute = batch_seconds(config, architecture, cuts, links=False)
    links = batch_seconds(config, architecture, cuts) - compute
    believed = list(slowness)
    for client, seconds in measured.items():
        seen = float(np.clip((seconds - links[client]) / compute[client], 1 / SPAN, SPAN))
        if not 1 / DRIFT < seen / slowness[client] < DRIFT:
            believed[client] = seen
    moved = [client for client, own in enumerate(believed) if own != slowness[client]]
    if not moved:
        return None
    model = configured_latency_model(config, architecture, alike=False, slowness=believed)
    low, high = bounds(model, min_cuts(config))
    now = model.extra(cuts)
    for client in range(len(cuts)):
        if client not in moved:
            low[:, client] = high[:, client] = now[:, client]
        elif client in least:
            low[:, client] = np.maximum(low[:, client], model.extra([least[client]])[:, 0])
    plan, before = plan_within(model, low, high), float(model.seconds(now))
    if plan.seconds > (1 - GAIN) * before:
        return None
    return Replan(plan.cuts, tuple(believed), before, plan.seconds)


def check_recut(config: Config, architecture: Architecture, client: int, cuts: Cuts) -> None:
    """Hold cuts that a server wants of a client in the midst of a run against the settings that it began with.

    Raises:
        SettingError: they leave the server what a client keeps, do not fit the networks, or not the device's memory.
    """
    least = min_cuts(config)
    pairs = [pair for net in NETS for pair in zip(cuts.of(net), least.of(net), strict=True)]
    if any(own < low for own, low in pairs):
        raise SettingError("split_gan.min_cut", str(least), f"at most {cuts}, which the server requested")
    cuts.check(architecture)
    model = configured_latency_model(config, architecture, alike=False)
    needed, device = float(model.memory(model.extra([cuts]))[0]), config.client_devices()[client]
    if needed > device.memory:
        allowed = f"one with {needed / 1e6:.1f} MB or more for the cuts {cuts}, which the server requested"
        raise SettingError("devices.profiles", device.name, allowed)
