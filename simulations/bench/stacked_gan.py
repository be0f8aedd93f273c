"""What stacking the clients of a split GAN would save: their blocks one after the other, and all in one call.

    python -m simulations.bench.stacked_gan                            # the published nets, eight clients of 64 rows
    python -m simulations.bench.stacked_gan width=16 size=8 batch=32

Every client has weights of its own, so clients of one cut share no product, only the call: `torch.func.vmap` makes of a
convolution of n clients one of n groups. The blocks are those that a client with the cut 0000 keeps. They are run
forward and back on one thread in float32, by turns; the table has the median over all turns but the first of
CPU-milliseconds for a client.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import threads
from collafuse_flwr.gan.networks import LATENT, NETS, Architecture, Cuts, build_architecture, takes_labels
from simulations.bench.command import bench

DEFAULTS: dict[str, Any] = {"rounds": 5, "width": 64, "size": 28, "batch": 64, "clients": 8, "output": ""}
#: One after the other over stacked: so much would make stacking worth another engine.
TARGET = 4.0
#: The clients' outputs of a block, (clients, rows, ...), after a pass forward and back.
Pass = Callable[[], Tensor]


def measure(rounds: int, width: int, size: int, batch: int, clients: int) -> list[dict[str, Any]]:
    """CPU-milliseconds of a client for each block, one after the other and stacked, and for all blocks."""
    architecture = build_architecture(1, size, 10, width)
    rows: list[dict[str, Any]] = []
    with threads(1):
        for net in NETS:
            for index in (*Cuts().head(net), *Cuts().tail(net, len(getattr(architecture, net)))):
                own = passes(architecture, net, index, batch, clients)
                laps = [[_milliseconds(one) / clients for one in own] for _ in range(rounds + 1)]
                each, stacked = (statistics.median(lap[way] for lap in laps[1:]) for way in (0, 1))
                rows.append({"block": f"{net} {index}", "one_by_one": each, "stacked": stacked})
    total = {way: sum(row[way] for row in rows) for way in ("one_by_one", "stacked")}
    return [row | {"ratio": row["one_by_one"] / row["stacked"]} for row in [*rows, {"block": "all", **total}]]


def passes(architecture: Architecture, net: str, index: int, batch: int, clients: int) -> tuple[Pass, Pass]:
    """One block of all clients: one after the other, and stacked."""
    own = [architecture.build(net, range(index, index + 1), ("bench", c))[index] for c in range(clients)]
    modules: list[nn.Module] = [module.to(memory_format=torch.channels_last) for module in own]
    image = (architecture.channels, architecture.size, architecture.size)
    first: tuple[int, ...] = (LATENT,) if net == "generator" else image
    shape = architecture.shapes(net)[index - 1] if index else first
    x = torch.randn((clients, batch, *shape), generator=named_generator("bench", net, index))
    labels = torch.arange(clients * batch).view(clients, batch) % architecture.num_classes
    inputs = (x, labels) if takes_labels(modules[0], index) else (x,)
    state, bare = stack_module_state(modules), copy.deepcopy(modules[0]).to("meta")

    def one_by_one() -> Tensor:
        outputs = []
        for client, module in enumerate(modules):
            rows, *others = (tensor[client] for tensor in inputs)
            outputs.append(module(rows.detach().requires_grad_(), *others))
            outputs[-1].square().sum().backward()
        return torch.stack([output.detach() for output in outputs])

    def stacked() -> Tensor:
        def block(weights: Any, *of_client: Tensor) -> Any:
            return functional_call(bare, weights, of_client)

        output: Tensor = vmap(block)(state, x.detach().requires_grad_(), *inputs[1:])
        output.square().sum().backward()
        return output.detach()

    return one_by_one, stacked


def _milliseconds(run: Pass) -> float:
    began = time.process_time()
    run()
    return 1e3 * (time.process_time() - began)


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the results as a table."""
    table = Table(title="CPU-milliseconds of a client, forward and back")
    for heading in ("block", "one by one", "stacked", "ratio", "target"):
        table.add_column(heading, justify="right")
    for row in rows:
        target = f"{TARGET:g} {'met' if row['ratio'] >= TARGET else 'missed'}" if row["block"] == "all" else ""
        figures = [f"{row[name]:.2f}" for name in ("one_by_one", "stacked", "ratio")]
        table.add_row(row["block"], *figures, target)
    console.print(table)


def main(arguments: list[str]) -> int:
    """Measure, show and keep the results, and return the exit status."""
    least = {"rounds": 1, "width": 1, "size": 8, "batch": 2, "clients": 1}
    return bench(arguments, DEFAULTS, least, lambda settings: measure(*(settings[name] for name in least)), show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
