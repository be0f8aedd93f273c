"""What a round with a fleet of SuperNodes costs Flower and the server: many of them in one process, a real SuperLink.

    python -m simulations.bench.fleet                                # 1,000 SuperNodes, 8 images of 8 x 8 each
    python -m simulations.bench.fleet nodes=100 images=32 size=16 output=fleet.json

Every node registers, beats and polls as a SuperNode does; the ClientApp answers in this process, one message at a time.
The server is the run's own: a SuperLink, and a ServerApp that takes introductions and the uploads of one round, and
trains on them. Then the run is stopped. Requests, bytes, seconds, memory and the pool are printed; `output` is a file.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from flwr.clientapp import ClientApp
from rich.console import Console
from rich.table import Table

from collafuse_flwr.core.errors import RunFailed
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.bench.command import Rows, bench
from simulations.bench.fleet_nodes import Fleet
from simulations.runners.app_loading import CLIENT_APP, load_app
from simulations.runners.environment import prepare_environment
from simulations.runners.flwr import REPOSITORY
from simulations.runners.submission import submit
from simulations.runners.superlink import private_superlink

#: SuperNodes, images of each, pixels a side, connections that the nodes share, seconds between a node's looks for
#: messages (3 are Flower's own), and seconds that a round may take.
DEFAULTS: dict[str, Any] = {"nodes": 1000, "images": 8, "size": 8, "workers": 8, "poll": 3, "patience": 3600}
DEFAULTS |= {"output": ""}
RUN: dict[str, Any] = {
    "dataset": "npz",
    "partition": "iid",
    "model": "nano",
    "client.init-from": "random",
    "train.local-epochs": 1.0,
    "evaluation.every": 0,
    "quiet": True,
    # The last round would be evaluated as well.
    "num-rounds": 2,
}
#: Programs of the server, by their scripts.
PROGRAMS = ("flower-superlink", "flwr-serverapp")
#: Seconds between looks at processes and at the run.
LOOK = 0.5


def write_images(path: Path, count: int, size: int) -> None:
    """Images of noise, in ten classes: what a round costs does not depend on what they show."""
    images = np.random.default_rng(0).integers(0, 256, (count, size, size), np.uint8)
    np.savez(path, images=images, labels=np.arange(count) % 10)


@contextmanager
def watched(below: psutil.Process) -> Iterator[dict[str, dict[str, float]]]:
    """The most MB resident, and the seconds of processor time, of the server's programs below a process."""
    most, ended = {name: {"MB": 0.0, "cpu seconds": 0.0} for name in PROGRAMS}, threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK):
            for process in below.children(recursive=True):
                try:
                    words, resident, times = process.cmdline(), process.memory_info().rss, process.cpu_times()
                except psutil.Error:
                    continue
                for name in PROGRAMS:
                    if any(word.endswith(name) for word in words[:2]):
                        now = {"MB": resident / 1e6, "cpu seconds": times.user + times.system}
                        most[name] = {what: max(value, most[name][what]) for what, value in now.items()}

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def run_config(given: dict[str, Any], folder: Path) -> str:
    """The settings of the run."""
    settings = RUN | {"num-supernodes": given["nodes"], "federation.round-timeout": float(given["patience"])}
    settings |= {"dataset-path": str(folder / "images.npz"), "output": str(folder / "run")}
    return " ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())


def measure(given: dict[str, Any]) -> dict[str, Any]:
    """One round of the fleet.

    Raises:
        RunFailed: it does not come to its end.
    """
    prepare_environment()
    app = load_app(CLIENT_APP, ClientApp)
    with (
        tempfile.TemporaryDirectory(prefix="collafuse-bench-") as name,
        private_superlink(simulation=False) as superlink,
        watched(psutil.Process()) as programs,
        Fleet(superlink.address, app, given["nodes"], given["workers"]) as fleet,
    ):
        folder, began = Path(name), time.monotonic()
        layout = RunLayout(folder / "run")
        write_images(folder / "images.npz", given["nodes"] * given["images"], given["size"])
        fleet.register()
        registered = time.monotonic()
        run = submit(superlink, str(REPOSITORY), "--run-config", run_config(given, folder))
        submitted, deadline = time.monotonic(), time.monotonic() + given["patience"]
        fleet.serve(lambda: layout.metrics.exists() or time.monotonic() > deadline, given["poll"])
        closed = time.monotonic()
        superlink.flwr("stop", str(run))
        if not layout.metrics.exists():
            raise RunFailed(f"no round was closed within {given['patience']} s")
        row = json.loads(layout.metrics.read_text().splitlines()[0])
        traffic, introduced, trained = fleet.traffic(), fleet.answered("query.client_info"), fleet.answered("train")
        return {
            "nodes": given["nodes"],
            "uploads": len(row["uploads"]),
            "images": row["server"]["pool"],
            "seconds": {
                "registration": registered - began,
                "introductions": introduced[-1] - submitted,
                "uploads": trained[-1] - introduced[-1],
                "closing": closed - trained[-1],
                "server training": row["server"]["seconds"],
                "processor, all clients": sum(worker.client_seconds for worker in fleet.workers),
            },
            "requests": dict(traffic.requests),
            "milliseconds": {n: 1000 * s / traffic.requests[n] for n, s in traffic.seconds.items()},
            "bytes up": dict(traffic.sent),
            "bytes down": dict(traffic.received),
            "programs": dict(programs),
            "pool bytes": sum(path.stat().st_size for path in layout.pool.iterdir()),
        }


def show(rows: Rows, console: Console) -> None:
    """Print what was measured as a table."""
    (row,) = rows
    table = Table(title=f"{row['nodes']} SuperNodes, {row['uploads']} uploads of {row['images']} images in all")
    table.add_column("what")
    table.add_column("measured", justify="right")
    for name, value in row["seconds"].items():
        table.add_row(f"seconds: {name}", f"{value:.1f}")
    for name, count in row["requests"].items():
        both = (row["bytes up"][name] + row["bytes down"][name]) / 1e6
        table.add_row(f"requests: {name}", f"{count:.0f} of {row['milliseconds'][name]:.1f} ms, {both:.1f} MB")
    for name, own in row["programs"].items():
        table.add_row(name, f"{own['cpu seconds']:.0f} s of a processor, {own['MB']:.0f} MB at most")
    table.add_row("pool on the server's disk", f"{row['pool bytes'] / 1e6:.2f} MB")
    console.print(table)


def main(arguments: list[str]) -> int:
    """Measure, show and keep the results, and return the exit status."""
    least = {"nodes": 1, "images": 5, "size": 8, "workers": 1, "poll": 1, "patience": 1}
    return bench(arguments, DEFAULTS, least, lambda given: [measure(given)], show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
