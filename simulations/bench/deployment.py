"""What a round of a deployment costs beside its work: a SuperLink and three SuperNodes on this machine.

    python -m simulations.bench.deployment                        # Flower's SuperNode, then simulations.supernode
    python -m simulations.bench.deployment rounds=5 clients=2 output=deployment.json

Both train the same few steps. A round's overhead is its time by the clock less the seconds that the server and the
slowest client report; the first round, which waits for SuperNodes to register, is left out.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.cli import complain
from simulations.runners.environment import prepare_environment
from simulations.runners.flwr import REPOSITORY
from simulations.runners.superlink import SuperLink, free_port, private_superlink, script, stop

DEFAULTS: dict[str, Any] = {"clients": 3, "rounds": 4, "output": "deployment.json"}
#: The SuperNode as Flower starts it, and ours.
SUPERNODES = {
    "flower-supernode": [script("flower-supernode")],
    "simulations.supernode": [sys.executable, "-m", "simulations.supernode"],
}
RUN = {
    "dataset": "npz",
    "model": "nano",
    "upload.share-labels": False,
    "client.init-from": "random",
    "train.local-epochs": 1.0,
    "evaluation.num-samples": 12,
    "sampling.server-steps": 3,
    "sampling.client-steps": 2,
    "quiet": True,
}
#: How often the rounds are counted, in seconds.
LOOK = 0.05


def start_supernode(command: list[str], superlink: SuperLink, home: Path, client: int) -> subprocess.Popen[bytes]:
    """A SuperNode with images of its own, whose owner lets seconds leave."""
    home.mkdir()
    digits = load_digits()
    rows = slice(64 * client, 64 * (client + 1))
    np.savez(home / "images.npz", images=np.uint8(digits.images[rows] * 15), labels=digits.target[rows])
    (home / "policy.toml").write_text('numbers = ["seconds"]\n')
    config = f'partition-id={client} data-path="{home}/images.npz" state-path="{home}/state"'
    options = ["--insecure", "--superlink", superlink.address, "--port", str(free_port())]
    options += ["--node-config", f'{config} policy="{home}/policy.toml"']
    with (home / "supernode.log").open("wb") as log:
        return subprocess.Popen(
            [*command, *options],
            env=superlink.environment,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def measure(command: list[str], clients: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Train, and give the seconds of each round but the first, and of its work."""
    output = folder / "run"
    settings = RUN | {"num-supernodes": clients, "num-rounds": rounds, "output": str(output)}
    line = " ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())
    times: list[float] = []
    with private_superlink(simulation=False) as superlink, ExitStack() as running:
        for client in range(clients):
            running.callback(stop, start_supernode(command, superlink, folder / str(client), client))
        run = running.enter_context(
            subprocess.Popen(
                superlink.command("run", str(REPOSITORY), "--stream", "--run-config", line),
                env=superlink.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        metrics = RunLayout(output).metrics
        while run.poll() is None:
            done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
            times += [time.monotonic()] * (done - len(times))
            time.sleep(LOOK)
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    work = [
        row["server"].get("seconds", 0.0)
        + sum(
            max((own["seconds"] or 0.0 for own in row[part].values()), default=0.0)
            for part in ("clients", "evaluation")
        )
        for row in rows
    ]
    lengths = [after - before for before, after in itertools.pairwise(times)]
    overhead = [length - seconds for length, seconds in zip(lengths, work[1:], strict=True)]
    return {"rounds": lengths, "work": work[1:], "overhead": statistics.median(overhead)}


def main(arguments: list[str]) -> int:
    """Measure both SuperNodes, print and write it."""
    named = dict(argument.split("=", 1) for argument in arguments)
    own = {name: type(default)(named.pop(name, default)) for name, default in DEFAULTS.items()}
    if named:
        return complain(
            SettingError(min(named), named[min(named)], f"no such setting; there are {', '.join(DEFAULTS)}")
        )
    prepare_environment()
    measured = {}
    for name, command in SUPERNODES.items():
        with tempfile.TemporaryDirectory() as folder:
            measured[name] = measure(command, own["clients"], own["rounds"], Path(folder))
        median = statistics.median(measured[name]["rounds"])
        print(f"{name}: {median:.1f} s a round, {measured[name]['overhead']:.1f} s of it overhead")
    write_json(Path(own["output"]), {"settings": own, "measured": measured})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
