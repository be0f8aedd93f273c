"""What training clients as one stack saves: seconds per client's step beside the same clients one after another.

    python -m simulations.bench.stacked                       # nano and tiny, 8 and 16 pixels, 10 and 50 clients
    python -m simulations.bench.stacked models=nano sizes=8 clients=5,20 rounds=9 output=stacked.json

Both train the same networks on images of noise, `steps` steps in a turn, on one thread; what a stack is made of and
taken apart with counts as well. They take turns, and the ratio is formed within each turn; the table gives its median
and range over all turns but the first. Seconds are those of the processor.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import choose_runtime, threads
from collafuse_flwr.data.images import ImageSource
from collafuse_flwr.diffusion.loss import Objective
from collafuse_flwr.diffusion.schedule import cosine
from collafuse_flwr.diffusion.stacked import TrainJob, train_all
from collafuse_flwr.diffusion.train import TimestepRange, TrainState
from collafuse_flwr.diffusion.unet import ImageShape, as_denoise, build_network
from simulations.bench.command import Rows, bench, whole_numbers

DEFAULTS: dict[str, Any] = {
    "models": "nano,tiny",
    "sizes": "8,16",
    "clients": "10,50",
    "batch": 8,
    "steps": 20,
    "rounds": 5,
    "output": "",
}


def measure(model: str, size: int, clients: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds per client's step of both, for networks of a preset and images of a size."""
    stack, others = ([_job(model, size, client, settings) for client in range(clients)] for _ in range(2))
    turns: dict[str, Callable[[], object]] = {
        "stacked": lambda: train_all(stack),
        "one_by_one": lambda: [job.run() for job in others],
    }
    laps = []
    with threads(1):
        for _ in range(settings["rounds"] + 1):
            lap = {}
            for name, turn in turns.items():
                began = time.process_time()
                turn()
                lap[name] = (time.process_time() - began) / (clients * settings["steps"])
            laps.append(lap)
    ratios = [lap["one_by_one"] / lap["stacked"] for lap in laps[1:]]
    seconds = {name: statistics.median(lap[name] for lap in laps[1:]) for name in turns}
    ratio = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return {"model": model, "size": size, "clients": clients, **seconds, "ratio": ratio}


def _job(model: str, size: int, client: int, settings: dict[str, Any]) -> TrainJob:
    """What one client trains in a turn."""
    network = build_network(model, ImageShape(channels=1, size=size, num_classes=10), 0, f"client {client}")
    draws = named_generator("bench", client)
    labels = torch.arange(100) % 10
    return TrainJob(
        state=TrainState(network, 0.999),
        denoise=as_denoise(network, choose_runtime("cpu", "float32")),
        source=ImageSource(torch.rand(len(labels), 1, size, size, generator=draws) * 2 - 1, labels),
        schedule=cosine(100),
        objective=Objective(),
        steps_range=TimestepRange(20),
        batch_size=settings["batch"],
        num_steps=settings["steps"],
        learning_rate=lambda _: 2e-3,
        generator=draws,
    )


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the results as a table."""
    table = Table(title="milliseconds per client's step")
    for heading in ("model", "pixels", "clients", "one by one", "stacked", "times as fast"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in rows:
        ratio = row["ratio"]
        table.add_row(
            row["model"],
            *(str(row[name]) for name in ("size", "clients")),
            *(f"{1000 * row[name]:.1f}" for name in ("one_by_one", "stacked")),
            f"{ratio['median']:.2f} ({ratio['min']:.2f}..{ratio['max']:.2f})",
        )
    console.print(table)


def main(arguments: list[str]) -> int:
    """Measure, show and keep the results, and return the exit status."""

    def measure_all(settings: dict[str, Any]) -> Rows:
        models = str(settings["models"]).split(",")
        cases = itertools.product(models, whole_numbers(settings, "sizes"), whole_numbers(settings, "clients"))
        return [measure(*case, settings) for case in cases]

    return bench(arguments, DEFAULTS, {"batch": 1, "steps": 1, "rounds": 1}, measure_all, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
