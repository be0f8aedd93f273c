"""What splitting a GAN costs or saves: client-steps per CPU-second beside one undivided float32 loop.

    python -m simulations.bench.split_gan                     # the published nets, four clients of 64 rows
    python -m simulations.bench.split_gan rounds=9 width=32 output=split.json

The plain loop (`simulations/bench/reference_gan.py`) is what a textbook would write: one graph for all clients, torch's
default layout and Adam, float32. The split engine makes the same steps by the phases that also cross as messages, on
one thread each, in the arithmetic that the column names. They take turns, and the ratio is formed within each turn; the
table gives its median and range over all turns but the first. A client-step is one batch of one client.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import choose_runtime, threads
from collafuse_flwr.gan.networks import LATENT, Cuts, build_architecture
from collafuse_flwr.gan.split_gan.client_half import Batch, ClientHalf
from collafuse_flwr.gan.split_gan.ops import OptimConfig, Tensors
from collafuse_flwr.gan.split_gan.server_half import ServerHalf
from collafuse_flwr.gan.split_gan.train_batch import InProcess, train_batch
from collafuse_flwr.gan.upsampling import Upsampling
from simulations.bench.command import bench
from simulations.bench.reference_gan import ReferenceGan

#: The cuts that the published planner gives its seven devices, one of each.
CUTS = dict(enumerate(map(Cuts.parse, ("0000", "0010", "1110", "1111"))))
#: At least so many client-steps per CPU-second as the plain loop, in the fastest arithmetic.
TARGET = 2.0
DEFAULTS: dict[str, Any] = {"rounds": 7, "width": 64, "size": 28, "batch": 64, "output": ""}


def measure(rounds: int, width: int, size: int, batch: int) -> list[dict[str, Any]]:
    """CPU-seconds per client-step of the plain loop, and of the split engine in every arithmetic."""
    steps: dict[str, Callable[[], None]] = {"plain": _plain(width, size, batch)}
    steps |= {name: _split(name, width, size, batch) for name in ("float32", "bfloat16")}
    laps = []
    with threads(1):
        for _ in range(rounds + 1):
            lap = {}
            for name, step in steps.items():
                began = time.process_time()
                step()
                lap[name] = (time.process_time() - began) / len(CUTS)
            laps.append(lap)
    rows = []
    for name in ("float32", "bfloat16"):
        ratios = [lap["plain"] / lap[name] for lap in laps[1:]]
        rows.append(
            {
                "arithmetic": name,
                "cpu_seconds": statistics.median(lap[name] for lap in laps[1:]),
                "plain_cpu_seconds": statistics.median(lap["plain"] for lap in laps[1:]),
                "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
            }
        )
    return rows


def _halves(precision: str, width: int, size: int) -> tuple[ServerHalf, dict[int, ClientHalf]]:
    architecture, optim_config = build_architecture(1, size, 10, width), OptimConfig(choose_runtime("cpu", precision))
    halves = {client: ClientHalf(architecture, own, ("client", client), optim_config) for client, own in CUTS.items()}
    return ServerHalf(architecture, CUTS, ("server",), optim_config), halves


def _batches(size: int, batch: int) -> dict[int, Batch]:
    def draw(client: int) -> Batch:
        generator = named_generator("bench", client)
        x = torch.rand((batch, 1, size, size), generator=generator) * 2 - 1
        labels = torch.randint(0, 10, (batch,), generator=generator)
        return Batch(x, labels, torch.randn((batch, LATENT), generator=generator))

    return {client: draw(client) for client in CUTS}


def _plain(width: int, size: int, batch: int) -> Callable[[], None]:
    server, halves = _halves("float32", width, size)
    owners = [(half.parts, half.optimisers) for half in halves.values()] + [(server.nets, server.optimisers)]
    for modules, optimisers in owners:
        for name, module in modules.items():
            _as_in_textbooks(module)
            optimisers[name] = torch.optim.Adam(module.parameters(), 2e-4, (0.5, 0.999))
    plain, batches = ReferenceGan(server, halves), _batches(size, batch)
    return lambda: plain.train_batch(batches)


def _as_in_textbooks(module: nn.Module) -> None:
    """Torch's default layout and its own transposed convolutions, with the same weights."""
    module.to(memory_format=torch.contiguous_format)
    for part in module.modules():
        if isinstance(part, Upsampling):
            part.forward = partial(nn.ConvTranspose2d.forward, part)  # type: ignore[method-assign]


def _split(precision: str, width: int, size: int, batch: int) -> Callable[[], None]:
    server, halves = _halves(precision, width, size)
    link = InProcess(halves, _batches(size, batch))
    pending: dict[int, Tensors] = {client: {} for client in CUTS}

    def step() -> None:
        nonlocal pending
        pending, _ = train_batch(server, link, pending)

    return step


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the results as a table."""
    table = Table(title="CPU-seconds per client-step")
    for heading in ("split engine in", "split", "plain float32", "times as many steps", "target"):
        table.add_column(heading, justify="right")
    for row in rows:
        ratio = row["ratio"]
        target = f"{TARGET:g} {'met' if ratio['median'] >= TARGET else 'missed'}"
        table.add_row(
            row["arithmetic"],
            f"{row['cpu_seconds']:.3f}",
            f"{row['plain_cpu_seconds']:.3f}",
            f"{ratio['median']:.2f} ({ratio['min']:.2f}..{ratio['max']:.2f})",
            target if row["arithmetic"] == "bfloat16" else "",
        )
    console.print(table)


def main(arguments: list[str]) -> int:
    """Measure, show and keep the results, and return the exit status."""
    least = {"rounds": 1, "width": 1, "size": 8, "batch": 2}
    return bench(arguments, DEFAULTS, least, lambda settings: measure(*(settings[name] for name in least)), show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
