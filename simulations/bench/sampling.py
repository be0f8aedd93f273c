"""How many images a second fewer sampling steps make, and what they cost in quality, with a finished run's networks.

    python -m simulations.bench.sampling run=runs/first                       # 40, 20, 12 and 8 steps of the chain
    python -m simulations.bench.sampling run=runs/first steps=40,8+4 num_samples=500 rounds=5 output=sampling.json

`20` divides the steps between server and client as the cut divides the chain, `8+4` says them. The numbers of steps
take turns, and every turn draws new noise, the same for all; ratios to the first number are formed within a turn, and
the table gives medians and ranges. Labels are those of the run's own samples. Seconds are those of the processor, on
one thread.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import threads
from collafuse_flwr.core.tensor_io import read_tensors
from collafuse_flwr.data.image_cache import cache_folder
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.evaluation.evaluator import SampleEvaluator, Samples
from collafuse_flwr.runs.loaded_run import FinishedRun
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.runs.summary import JUDGES
from simulations.bench.command import Rows, bench

DEFAULTS: dict[str, Any] = {"run": "", "steps": "40,20,12,8", "num_samples": 2000, "rounds": 3, "output": ""}
#: Of a client's samples: the labels that networks are conditioned on, and the classes that they are judged as.
Labels = tuple[Tensor | None, Tensor]


def measure(folder: Path, steps: list[str], num_samples: int, rounds: int) -> list[dict[str, Any]]:
    """Images a second and pooled FD of each number of steps, and their ratios to the first one's.

    Raises:
        UserError: the folder holds no finished run of a simulation, or there is no such number of steps.
    """
    run = FinishedRun.of(folder)
    setups = {text: _setup(run, text) for text in steps}
    labels = {row["client"]: _labels(run, row["client"], num_samples) for row in run.clients}
    evaluator = SampleEvaluator.trained_on(
        run.data,
        replace(run.config.evaluation, tstr="none"),
        run.setup.runtime.device,
        {},
        cache=cache_folder(run.config.data) / JUDGES,
    )
    laps = []
    with threads(1):
        # The first turn warms up.
        for turn in range(rounds + 1):
            laps.append({text: _turn(run, setup, labels, evaluator, turn) for text, setup in setups.items()})
    return [_row(text, steps[0], laps[1:]) for text in steps]


def _setup(run: FinishedRun, text: str) -> DiffusionSetup:
    """The run's process with so many steps: of the whole chain, or the server's and the client's.

    Raises:
        SettingError: it is no such number.
    """
    parts = text.split("+")
    if not all(part.isdecimal() and int(part) > 0 for part in parts) or len(parts) > 2:
        raise SettingError("steps", text, "numbers above 0 separated by commas, each as 20 or, for both sides, 16+4")
    server, client = (int(parts[0]), int(parts[1])) if len(parts) == 2 else (0, 0)
    whole = server + client or int(parts[0])
    sampling = replace(run.config.sampling, steps=whole, server_steps=server, client_steps=client)
    return replace(run.setup, sampling=sampling)


def _labels(run: FinishedRun, client: int, num_samples: int) -> Labels:
    """Labels as often as among a client's own samples, for its share of all samples."""
    kept, _ = read_tensors(RunLayout(run.folder).client(client).samples)
    share = max(2, round(num_samples * run.clients[client]["num_images"] / sum(c["num_images"] for c in run.clients)))
    rows = torch.arange(share) % len(kept["labels"])
    condition = {"classes": kept["labels"], "attributes": kept.get("attributes"), "none": None}
    chosen = condition[run.config.data.conditioning]
    return None if chosen is None else chosen[rows], kept["labels"][rows]


def _turn(
    run: FinishedRun, setup: DiffusionSetup, labels: dict[int, Labels], evaluator: SampleEvaluator, turn: int
) -> dict[str, float]:
    """All clients' samples: how many a second, and their pooled FD."""
    samples, seconds, scale = {}, 0.0, run.config.sampling.guidance_scale
    channels, size, *_ = run.client_info.shape
    for row in run.clients:
        client, cut = row["client"], row["cut_step"]
        conditions, classes = labels[client]
        x = torch.randn((len(classes), channels, size, size), generator=named_generator("bench", turn, client))
        shared = conditions if setup.shares_labels else None
        backbone, own = run.backbone, run.denoiser(client) if cut else None
        began, name = time.process_time(), ("bench", turn, client)
        if backbone is not None and cut < setup.schedule.timesteps:
            x = setup.sample(backbone, x, setup.server_grid(cut), shared, (*name, "server"), scale)
        if own is not None:
            x = setup.sample(own, x, setup.client_grid(cut), conditions, (*name, "client"), scale)
        seconds += time.process_time() - began
        samples[client] = Samples(run.data.images.decode(x).clamp(-1, 1), classes)
    count = sum(len(own.labels) for own in samples.values())
    return {"images_per_second": count / seconds, "fd": float(evaluator.measure(samples)[0]["fd"])}


def _row(text: str, first: str, laps: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """The medians of a number of steps, and its ratios to the first one's."""
    row: dict[str, Any] = {"steps": text}
    for name in ("images_per_second", "fd"):
        ratios = [lap[text][name] / lap[first][name] for lap in laps]
        row[name] = statistics.median(lap[text][name] for lap in laps)
        row[f"{name}_ratio"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return row


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the results as a table."""
    table = Table(title="sampling steps")
    for heading in ("steps", "images/s", "times as fast", "FD", f"FD / that of {rows[0]['steps']}"):
        table.add_column(heading, justify="right")
    for row in rows:
        speed, fd = (_range(row[f"{name}_ratio"]) for name in ("images_per_second", "fd"))
        table.add_row(row["steps"], f"{row['images_per_second']:.0f}", speed, f"{row['fd']:.2f}", fd)
    console.print(table)


def _range(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['min']:.2f}..{ratio['max']:.2f})"


def main(arguments: list[str]) -> int:
    """Measure, show and keep the results, and return the exit status."""

    def measure_run(settings: dict[str, Any]) -> Rows:
        if not settings["run"]:
            raise SettingError("run", "", "the folder of a finished run")
        steps = str(settings["steps"]).split(",")
        return measure(Path(str(settings["run"])), steps, settings["num_samples"], settings["rounds"])

    return bench(arguments, DEFAULTS, {"num_samples": 2, "rounds": 1}, measure_run, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
