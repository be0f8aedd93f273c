"""CollaFuse beside the authors' loop, written anew from its description: processor seconds for equal images.

    python -m simulations.bench.authors_loop                                  # 32 and 64 pixels; minutes
    python -m simulations.bench.authors_loop sizes=32 clients=1 rounds=1 output=authors.json

Ours are rounds of the app with `model=paper`, its messages and files. Theirs is `simulations/bench/reference_ddpm.py`,
with the U-Net of their size, 2.4 million parameters, of `simulations/bench/reference_unet.py`. Both pass over the same
images with T = 100, c = 0.2 and batches of 50, on one thread. They take turns, round by round; ratios are formed within
a round, and the table gives medians and ranges over all rounds but the first.

The ratio is the product of three. Work: with every image they train the client's network and the server's, ours the
client's with the share c of the images and the server's with the rest, so half as many image updates. Network: what an
update of their loop takes with their network, over what it takes with ours, which has attention at the lowest
resolution alone. Loop: their loop with our network, over the app, for an update.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from collafuse_flwr.config.config import Config
from simulations.bench.command import Rows, bench, whole_numbers
from simulations.bench.configs import synthetic_images
from simulations.bench.instrumented import REPORT
from simulations.runners.local import run_local

APP = "simulations.bench.authors_app:app"
#: At least so many times as fast.
TARGET = 2.5
#: Share of the images that no client trains on.
HELD_OUT = 0.2
DEFAULTS: dict[str, Any] = {"sizes": "32,64", "clients": 2, "batch": 50, "steps": 5, "rounds": 3, "output": ""}
RATIOS = ("ratio", "work", "network", "loop")


def measure(size: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Processor seconds for an image of both, and their ratio with its three factors."""
    with tempfile.TemporaryDirectory(prefix="collafuse-bench-") as folder:
        run_local(_config(size, settings, Path(folder)), server_app=APP)
        report = json.loads((Path(folder) / "run" / REPORT).read_text())
    laps = [_lap(lap, own) for lap, own in zip(report["laps"], report["seconds_with_ours"], strict=True)][1:]
    row: dict[str, Any] = {name: statistics.median(lap[name] for lap in laps) for name in ("ours", "theirs")}
    for name in RATIOS:
        values = [lap[name] for lap in laps]
        row[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {"size": size} | row


def _lap(lap: dict[str, Any], with_ours: float) -> dict[str, float]:
    """One round: seconds for an image that is passed over, and ratios; `with_ours` are those of the third loop.

    The app makes one update for an image, the authors' loop two.
    """
    ours, theirs = lap["app_seconds"] / lap["app_updates"], lap["plain_seconds"] / lap["plain_updates"]
    swapped, work = with_ours / lap["plain_updates"], 2.0
    factors = {"work": work, "network": theirs / swapped, "loop": swapped / ours}
    return {"ours": ours, "theirs": work * theirs, "ratio": work * theirs / ours} | factors


def _config(size: int, settings: dict[str, Any], folder: Path) -> Config:
    """Rounds in which each client passes once over `steps` batches of its images; the last round is not reached."""
    clients, batch = settings["clients"], settings["batch"]
    images = math.ceil(clients * settings["steps"] * batch / (1 - HELD_OUT))
    own = {
        "runner": "local",
        "model": "paper",
        "num_supernodes": clients,
        "num_rounds": settings["rounds"] + 2,
        "dataset": "npz",
        "dataset_path": synthetic_images(folder / "images.npz", images, size),
        "data.conditioning": "none",
        "data.holdout_fraction": HELD_OUT,
        "partition": "iid",
        "diffusion.prediction_type": "epsilon",
        "cut_ratio": 0.2,
        "client.batch_size": batch,
        "client.init_from": "random",
        "server.batch_size": batch,
        "train.local_epochs": 1.0,
        "evaluation.tstr": "none",
        "resources.server_threads": 1,
        "tracker": "none",
        "device": "cpu",
        "quiet": True,
        "output": str(folder / "run"),
    }
    return Config.from_flat(own)


def show(rows: Rows, console: Console) -> None:
    """Print the results as a table."""
    table = Table(title="processor milliseconds for an image")
    for heading in ("pixels", "ours", "authors'", "times as fast", "target", "work", "network", "loop"):
        table.add_column(heading, justify="right")
    for row in rows:
        whole, *factors = (row[name] for name in RATIOS)
        table.add_row(
            str(row["size"]),
            *(f"{1000 * row[name]:.1f}" for name in ("ours", "theirs")),
            f"{whole['median']:.2f} ({whole['min']:.2f}..{whole['max']:.2f})",
            f"{TARGET:g} {'met' if whole['median'] >= TARGET else 'missed'}",
            *(f"{own['median']:.2f}" for own in factors),
        )
    console.print(table)


def main(arguments: list[str]) -> int:
    """Measure, show and keep the results, and return the exit status."""

    def measure_all(settings: dict[str, Any]) -> Rows:
        return [measure(size, settings) for size in whole_numbers(settings, "sizes")]

    return bench(arguments, DEFAULTS, {"clients": 1, "batch": 1, "steps": 1, "rounds": 1}, measure_all, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
