"""How long clients' devices should take: `python -m simulations.plan_cuts fleet=paper7 strategy=huscf_gan ...`.

Takes the settings of simulations.run and trains nothing. For huscf_gan it prints the cut that is planned for each
client, with what its own compute and transfers take of each pass of a batch and the bytes that cross the cut on either
way; for diffusion the work of each client and its longest round.
"""

from __future__ import annotations

import sys

import numpy as np
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from collafuse_flwr.client.cut_policies import work_unit
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.gan.networks import Architecture, Cuts, build_architecture
from collafuse_flwr.gan.planning.block_cost import measure
from collafuse_flwr.gan.planning.latency_model import batch_bytes
from collafuse_flwr.gan.split_gan.precision import DTYPES
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.setup.gan_cuts import configured_latency_model, plan_client_cuts
from collafuse_flwr.setup.round_cost import largest_cut_within_time, round_cost, round_seconds
from simulations.cli import entry, settings_usage
from simulations.run import configured

#: Clients that the tables show.
SHOWN = 30


def plan(config: Config, console: Console) -> None:
    """Print what is planned, or predicted, for the devices of the clients.

    Raises:
        UserError: the images cannot be loaded or dealt, no devices are named, or no cut is allowed.
    """
    if config.spec.is_gan and "split_gan" not in config.spec.reads:
        raise SettingError(
            "strategy", config.run.strategy, "huscf_gan, or one of diffusion: others have nothing to plan"
        )
    if not config.client_devices():
        raise SettingError(
            "devices.profiles", "", "the clients' devices, to plan for: paper7, or each client's with commas"
        )
    if not config.spec.is_gan:
        _diffusion(config, console)
        return
    images = federation_data(config.data, config.run.num_supernodes, config.run.seed).images
    _, channels, size, _ = images.images.shape
    gan = config.gan
    _gan(config, build_architecture(channels, size, images.num_classes, gan.width, gan.depth), console)


def _gan(config: Config, architecture: Architecture, console: Console) -> None:
    """The planned cuts, and what they come to."""
    planned = plan_client_cuts(config, architecture)
    whole, compute = (
        configured_latency_model(config, architecture, alike=False, links=links) for links in (True, False)
    )
    extra, cost = (
        whole.extra(planned.cuts),
        measure(architecture, config.gan.batch_size, itemsize=DTYPES[config.gan.wire_dtype].itemsize),
    )
    own, computed = whole.passes(extra), compute.passes(extra).sum(0)
    table = _table(
        "Planned cuts, and milliseconds of each client in the passes of a batch",
        "client",
        "device",
        "cut",
        "G fwd",
        "G bwd",
        "D fwd",
        "D bwd",
        "mostly",
        "MB",
    )
    for client, cut in enumerate(planned.cuts[:SHOWN]):
        mostly = "compute" if computed[client] > own[:, client].sum() / 2 else "link"
        milliseconds = [f"{1e3 * seconds:,.0f}" for seconds in own[:, client]]
        megabytes = f"{batch_bytes(cost, cut) / 1e6:.2f}"
        table.add_row(str(client), whole.kinds[client].name, str(cut), *milliseconds, mostly, megabytes)
    _show(table, len(planned.cuts), console)
    slowest = int(own.sum(0).argmax())
    server = whole.server(extra)
    least = float(whole.seconds(whole.extra([Cuts()] * len(planned.cuts))))
    how = f"{config.devices.latency_model} model, {config.cut_planner.algorithm} planner"
    console.print(f"An iteration should take {planned.seconds:.3g} s ({how}); with cut 0000 for all, {least:.3g} s.")
    bottleneck = "the server's compute" if server > own[:, slowest].sum() else f"client {slowest}"
    console.print(
        f"The server computes for {server:.3g} s of it; client {slowest} (device {whole.kinds[slowest].name}) is the "
        f"slowest, with {own[:, slowest].sum():.3g} s of its own. Most of it waits for {bottleneck}."
    )


def _diffusion(config: Config, console: Console) -> None:
    """What each client should have to do, and how long that takes it in the longest round."""
    data = federation_data(config.data, config.run.num_supernodes, config.run.seed)
    unit, rounds = work_unit(config, diffusion_setup(config), data.images), range(1, config.run.num_rounds + 1)
    columns = ("client", "device", "images", "cut", "GFLOP", "MB up", "MB down", "s", "mostly")
    table = _table("Predicted work in all rounds of training, and the longest round in seconds", *columns)
    for client, own in enumerate(data.partitions[:SHOWN]):
        count, device = len(own.train), config.client_devices()[client]
        cut = (
            largest_cut_within_time(config, unit, count, client)
            if config.cut.policy == "by_device"
            else config.cuts_of(client)[-1]
        )
        loads = [round_cost(config, unit, count, cut, round_) for round_ in rounds]
        flops, up, down = np.sum([[load.flops, load.bytes_up, load.bytes_down] for load in loads], 0)
        mostly = "compute" if flops / device.flops > (up + down) / device.link else "link"
        numbers = [f"{flops / 1e9:,.1f}", f"{up / 1e6:.3f}", f"{down / 1e6:.3f}"]
        seconds = f"{round_seconds(config, unit, count, client, cut):.3g}"
        table.add_row(str(client), device.name, str(count), str(cut), *numbers, seconds, mostly)
    _show(table, len(data.partitions), console)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    return table


def _show(table: Table, clients: int, console: Console) -> None:
    console.print(table)
    if clients > SHOWN:
        console.print(f"The first {SHOWN} of {clients} clients are shown.")


def _act(settings: DictConfig) -> None:
    plan(configured(settings), Console(highlight=False))


main = entry(_act, usage=settings_usage(str(__doc__)))

if __name__ == "__main__":
    sys.exit(main())
