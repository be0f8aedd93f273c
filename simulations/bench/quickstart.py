"""`strategy=fedavg` beside FedAvg as Flower's quickstart has it: image updates per second of equal networks and images.

    python -m simulations.bench.quickstart                                   # nano and tiny on digits, ten clients
    python -m simulations.bench.quickstart models=nano clients=4 epochs=2 turns=1 output=quickstart.json

Both are runs of `runner=local`, which take turns; the first round of each, which reads images, and our last one, which
evaluates, are not counted. The ratio is formed within each turn, and the table gives its median and range. Ours also
clips gradients, averages weights, keeps what it goes on from on the disk, and notes what leaves a client.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from collafuse_flwr.config.config import Config
from simulations.bench.command import Rows, bench
from simulations.bench.quickstart_app import REPORT
from simulations.runners.local import run_local

APP = "simulations.bench.quickstart_app"
DEFAULTS: dict[str, Any] = {
    "models": "nano,tiny",
    "clients": 10,
    "epochs": 2,
    "rounds": 3,
    "turns": 3,
    "max_images": 0,
    "output": "",
}


def measure(model: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Image updates per second of both, and how many times as fast ours is."""
    laps = [
        {"ours": _ours(model, settings), "quickstart": _quickstart(model, settings)} for _ in range(settings["turns"])
    ]
    ratios = [lap["ours"] / lap["quickstart"] for lap in laps]
    medians = {name: statistics.median(lap[name] for lap in laps) for name in laps[0]}
    ratio = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return {"model": model, **medians, "ratio": ratio}


def _ours(model: str, settings: dict[str, Any]) -> float:
    with tempfile.TemporaryDirectory(prefix="collafuse-bench-") as folder:
        result = run_local(_config(model, settings, Path(folder) / "run", settings["rounds"] + 2))
        lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    rounds = [json.loads(line) for line in lines][1:-1]
    updates = sum(own["image_updates"] for row in rounds for own in row["clients"].values())
    return float(updates / sum(row["seconds"] for row in rounds))


def _quickstart(model: str, settings: dict[str, Any]) -> float:
    with tempfile.TemporaryDirectory(prefix="collafuse-bench-") as folder:
        config = _config(model, settings, Path(folder), settings["rounds"] + 1)
        run_local(config, server_app=f"{APP}:server", client_app=f"{APP}:app")
        report = json.loads((Path(folder) / REPORT).read_text())
    return float(report["updates"] / (report["times"][-1] - report["times"][1]))


def _config(model: str, settings: dict[str, Any], output: Path, num_rounds: int) -> Config:
    own = {
        "strategy": "fedavg",
        "model": model,
        "runner": "local",
        "num_supernodes": settings["clients"],
        "num_rounds": num_rounds,
        "train.local_epochs": float(settings["epochs"]),
        "data.max_images": settings["max_images"],
        "evaluation.num_samples": 20,
        "evaluation.tstr": "none",
        "tracker": "none",
        "quiet": True,
        "device": "cpu",
        "output": str(output),
    }
    return Config.from_flat(own)


def show(rows: Rows, console: Console) -> None:
    """Print the results as a table."""
    table = Table(title="image updates per second")
    for heading in ("model", "strategy=fedavg", "quickstart", "times as fast"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in rows:
        ratio = row["ratio"]
        speeds = (f"{row[name]:.0f}" for name in ("ours", "quickstart"))
        table.add_row(row["model"], *speeds, f"{ratio['median']:.2f} ({ratio['min']:.2f}..{ratio['max']:.2f})")
    console.print(table)


def main(arguments: list[str]) -> int:
    """Measure, show and keep the results, and return the exit status."""

    def measure_all(settings: dict[str, Any]) -> Rows:
        return [measure(model, settings) for model in str(settings["models"]).split(",")]

    least = {"clients": 1, "epochs": 1, "rounds": 1, "turns": 1, "max_images": 0}
    return bench(arguments, DEFAULTS, least, measure_all, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
