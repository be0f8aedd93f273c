"""What a client costs beside its training: seconds of a round, and bytes, of CollaFuse beside FedAvg, as clients grow.

    python -m simulations.bench.clients                       # 10, 100 and 1,000 clients
    python -m simulations.bench.clients clients=10,50 runner=ray stack=0 rounds=5 output=clients.json

Each row is one run of `nano` on as many images of noise a client (8 x 8 pixels). The first round, which reads them, and
the last, which evaluates, are not counted in seconds. `beyond work` is what a round takes beside the seconds that
server and clients report, where these are one after another (`runner=local`). Bytes are those of a client in all
rounds: CollaFuse uploads once and takes the backbone once, FedAvg moves weights in every round.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from collafuse_flwr.config.config import Config, without_unread
from simulations import runners
from simulations.bench.command import Rows, bench, whole_numbers

DEFAULTS: dict[str, Any] = {
    "clients": "10,100,1000",
    "strategies": "collafuse,fedavg",
    "images": 10,
    "rounds": 3,
    "runner": "local",
    "stack": 1,
    "output": "",
}
RUN: dict[str, Any] = {
    "dataset": "npz",
    "partition": "iid",
    "model": "nano",
    "train.local_epochs": 5.0,
    "client.init_from": "backbone",
    "client.start_round": 1,
    "sampling.steps": 5,
    "evaluation.tstr": "none",
    "tracker": "none",
    "quiet": True,
}


def measure(strategy: str, clients: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Run a strategy with so many clients, and give what a round and a client cost."""
    with tempfile.TemporaryDirectory(prefix="collafuse-bench-") as folder:
        path, output = Path(folder) / "noise.npz", Path(folder) / "run"
        write_noise(path, clients * settings["images"])
        own = {
            "strategy": strategy,
            "num_supernodes": clients,
            "num_rounds": settings["rounds"] + 2,
            "runner": settings["runner"],
            "resources.stack_clients": settings["stack"],
            "dataset_path": str(path),
            "evaluation.num_samples": max(20, clients),
            "output": str(output),
        }
        runners.run(Config.from_flat(without_unread(RUN | own, own)))
        rounds = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    lost = sum(len(row["failed"]) + len(row["rejected"]) for row in rounds)
    seconds = statistics.median(row["seconds"] for row in rounds[1:-1])
    beyond = statistics.median(row["seconds"] - _work(row) for row in rounds[1:-1])
    kilobytes = {
        name: sum(sum(row[name].values()) for row in rounds) / clients / 1e3 for name in ("bytes_up", "bytes_down")
    }
    return {"strategy": strategy, "clients": clients, "seconds": seconds, "beyond": beyond, "lost": lost, **kilobytes}


def _work(row: dict[str, Any]) -> float:
    """The seconds that server and clients report of a round."""
    return float(row["server"].get("seconds", 0.0) + sum(own["seconds"] for own in row["clients"].values()))


def write_noise(path: Path, count: int) -> None:
    """Write as many images of noise, of 10 classes."""
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), np.uint8)
    np.savez(path, images=images, labels=np.arange(count) % 10)


def show(rows: Rows, console: Console) -> None:
    """Print the results as a table."""
    table = Table(title="a round, and a client")
    for heading in (
        "strategy",
        "clients",
        "s a round",
        "s beyond work",
        "ms of it a client",
        "kB up",
        "kB down",
        "lost",
    ):
        table.add_column(heading, justify="left" if heading == "strategy" else "right")
    for row in rows:
        table.add_row(
            row["strategy"],
            str(row["clients"]),
            f"{row['seconds']:.2f}",
            f"{row['beyond']:.2f}",
            f"{1000 * row['beyond'] / row['clients']:.1f}",
            *(f"{row[name]:.1f}" for name in ("bytes_up", "bytes_down")),
            str(row["lost"]),
        )
    console.print(table)


def main(arguments: list[str]) -> int:
    """Measure, show and keep the results, and return the exit status."""

    def measure_all(settings: dict[str, Any]) -> Rows:
        cases = itertools.product(str(settings["strategies"]).split(","), whole_numbers(settings, "clients"))
        return [measure(strategy, own, settings) for strategy, own in cases]

    return bench(arguments, DEFAULTS, {"images": 4, "rounds": 1, "stack": 0}, measure_all, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
