"""What Flower costs: the app's image updates per second beside a plain torch loop that makes the same updates.

    python -m simulations.bench.overhead output=overhead.json                    # all sets and runners
    python -m simulations.bench.overhead sets=digits runners=local rounds=2 train.local_epochs=0.5

Each case is one run of the real strategy, clients and runner, in which app and plain loop take turns, round by round
(`simulations/bench/instrumented.py`). Start-up and the first round are not counted, and no round evaluates. The ratio
is formed within each round, and the table gives its median and range. Rounds are far shorter than in a real run, so the
cost of a round beyond its updates has more weight; the last column is that cost, in seconds.

The plain loop has `resources.server_threads` torch threads (all cores), and so have clients in `local`, one after
another; in Ray they have `resources.client_threads`. Beside `sets`, `runners`, `rounds`, `dataset_path` and `output`
any setting of a run may be given. They are read by OmegaConf, not composed by Hydra: a run's `output` and `runner`
mean something else here, and there are several runs in one process.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import UserError
from collafuse_flwr.core.runtime import available_cores, choose_runtime
from simulations.bench.configs import DEFAULTS, TARGETS, configure
from simulations.bench.instrumented import REPORT
from simulations.cli import complain, flat_settings
from simulations.runners.local import run_local

APP = "simulations.bench.instrumented:app"


def measure(config: Config) -> dict[str, Any]:
    """Run one case in the folder that it names, and sum up all its rounds but the first."""
    if config.run.runner == "ray":
        from simulations.runners.ray import run_ray  # noqa: PLC0415 - Ray alone takes seconds to import

        folder = run_ray(config, server_app=APP).folder
    else:
        folder = run_local(config, server_app=APP).folder
    report = json.loads((folder / REPORT).read_text())
    laps = report["laps"][1:]
    ratios = [lap["plain_seconds"] / lap["app_seconds"] for lap in laps]
    return {
        "app_images_per_second": statistics.median(lap["app_updates"] / lap["app_seconds"] for lap in laps),
        "plain_images_per_second": statistics.median(lap["plain_updates"] / lap["plain_seconds"] for lap in laps),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "seconds_beyond": statistics.median(lap["app_seconds"] - lap["plain_seconds"] for lap in laps),
        "target": TARGETS[config.run.runner],
        "settings": config.to_flat(),
        **report,
    }


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the results as a table."""
    table = Table(title="image updates per second, after start-up")
    for heading in ("set", "runner", "app", "plain loop", "ratio", "target", "extra s a round"):
        table.add_column(heading, justify="left" if heading in ("set", "runner") else "right")
    for row in rows:
        ratio = row["ratio"]
        table.add_row(
            row["set"],
            row["runner"],
            f"{row['app_images_per_second']:.0f}",
            f"{row['plain_images_per_second']:.0f}",
            f"{ratio['median']:.2f} ({ratio['min']:.2f}..{ratio['max']:.2f})",
            f"{row['target']:g} {'met' if ratio['median'] >= row['target'] else 'missed'}",
            f"{row['seconds_beyond']:.2f}",
        )
    console.print(table)


def main(arguments: list[str]) -> int:
    """Measure every requested case, show and keep the results, and return the exit status."""
    settings = DEFAULTS | flat_settings(OmegaConf.from_cli(arguments))
    rows: list[dict[str, Any]] = []
    try:
        with tempfile.TemporaryDirectory(prefix="collafuse-bench-") as folder:
            names, runners = str(settings["sets"]).split(","), str(settings["runners"]).split(",")
            cases = [(n, r, configure(n, r, settings, Path(folder))) for n in names for r in runners]
            rows += [{"set": name, "runner": runner} | measure(config) for name, runner, config in cases]
    except UserError as error:
        return complain(error)
    show(rows, Console())
    if settings["output"]:
        write_json(Path(settings["output"]), {"machine": _machine(), "cases": rows})
    return 0


def _machine() -> dict[str, Any]:
    versions = {name: version(name) for name in ("torch", "flwr", "ray")}
    device = str(choose_runtime().device)
    return {"platform": platform.platform(), "cores": available_cores(), "device": device, **versions}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
