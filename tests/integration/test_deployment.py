"""A SuperLink, two SuperNodes with images of their own, and a run that is submitted with `flwr run`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import collafuse_flwr as cf
from collafuse_flwr.client.generation import ImageRequest
from simulations.request import leave_request
from simulations.runners.environment import prepare_environment
from simulations.runners.flwr import REPOSITORY
from simulations.runners.superlink import SuperLink, free_port, private_superlink, script, stop
from tests.small_runs import metrics

#: Classes whose images the two clients hold, and how many of each class.
CLASSES, PER_CLASS = 3, 12
#: Of a client's images, those that it keeps to compare with.
HELD_OUT = 7
SETTINGS = {
    "num-supernodes": 2,
    "num-rounds": 2,
    "dataset": "imagefolder",
    "image-size": 8,
    "upload.share-labels": False,
    "diffusion.timesteps": 20,
    "client.init-from": "random",
    "train.local-epochs": 3.0,
    "server.batch-size": 16,
    "evaluation.num-samples": 12,
    "sampling.server-steps": 3,
    "sampling.client-steps": 2,
    "quiet": True,
}
#: Seconds for a round, in which every message is a new process, beside whatever else the machine does.
PATIENCE = 900.0


def write_images(folder: Path, client: int) -> None:
    """The client's own digits, in a subfolder for each class."""
    digits = load_digits()
    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True)
        rows = np.flatnonzero(digits.target == label)[client * PER_CLASS : (client + 1) * PER_CLASS]
        for row in rows:
            image = np.uint8(digits.images[row] * 15)
            Image.fromarray(image).save(folder / str(label) / f"{row}.png")


@contextmanager
def supernode(
    superlink: SuperLink, folder: Path, client: int, *, forks: bool = True
) -> Iterator[subprocess.Popen[bytes]]:
    """One client's SuperNode: the one whose messages are forked, or Flower's own."""
    start = [sys.executable, "-m", "simulations.supernode"] if forks else [script("flower-supernode")]
    node_config = f'partition-id={client} data-path="{folder}/images" state-path="{folder}/state"'
    if (folder / "policy.toml").exists():
        node_config += f' policy="{folder}/policy.toml"'
    command = [*start, "--insecure", "--superlink", superlink.address]
    command += ["--port", str(free_port()), "--node-config", node_config]
    with (folder / "supernode.log").open("ab") as log:
        process = subprocess.Popen(
            command, env=superlink.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        stop(process)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)


def run_config(folder: Path) -> str:
    """The settings as a user types them after --run-config."""
    settings = SETTINGS | {"output": str(folder)}
    return " ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())


def generate_config(folder: Path) -> str:
    """The settings of the run that generates with the networks of the one in a folder."""
    return f"task='generate' output='{folder}' generate.num-images=8 generate.seed=5 quiet=true"


def pictures(folder: Path) -> dict[str, bytes]:
    """The images in a folder, and their grid."""
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def contents(folder: Path) -> bytes:
    """What lies in a folder, end to end."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def check_generated(folder: Path, output: Path, homes: list[Path], before: bytes) -> None:
    """What they made together is on each client's disk alone, and one process makes the same of the same networks."""
    record = (output / "server" / "generated.jsonl").read_bytes()
    length = (output / "server" / ".generated.jsonl.length").read_bytes()
    after = contents(output)
    assert len(after) == len(before) + len(record) + len(length)
    assert [json.loads(line)["images"] for line in record.splitlines()] == [8, 8, 3]
    whole = shutil.copytree(output, folder / "whole")
    for client, home in enumerate(homes):
        (own,) = (home / "state" / "runs").iterdir()
        shutil.copytree(own, whole / "clients" / str(client))
        (made,) = (home / "state" / "generated").iterdir()
        alone = cf.generate(whole, client=client, num_images=8, seed=5, output=str(folder / f"alone-{client}"))
        assert len(pictures(alone)) == 9
        assert pictures(made / "0001") == pictures(alone)
        assert not any(image in after for image in pictures(alone).values())
    # The second has what it requested as well.
    assert pictures(made / "0002").keys() == {*(f"{i}-class-2.png" for i in range(3)), "grid.png"}


def check_summary(output: Path, homes: list[Path]) -> None:
    """Nobody can pool samples, but every client says how its own are."""
    summary = json.loads((output / "summary.json").read_text())
    assert not {"fd", "tstr"} & summary["pooled"].keys()
    assert [client["client"] for client in summary["clients"]] == [0, 1]
    for client in summary["clients"]:
        assert client["num_images"] == len(list((homes[client["client"]] / "images").rglob("*.png"))) - HELD_OUT
        assert client["releases"] == 1
    limited, open_ = summary["clients"]
    assert (limited["kernel_distance"], limited["held_out_loss"]) == (None, None)
    assert open_["held_out_loss"] > 0
    assert open_["kernel_distance"] == pytest.approx(0.05 * round(open_["kernel_distance"] / 0.05))


def test_clients_keep_to_their_own_disks_and_one_that_was_killed_comes_back(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    prepare_environment()
    began, output, homes = time.monotonic(), tmp_path / "run", [tmp_path / "0", tmp_path / "1"]
    for client, home in enumerate(homes):
        write_images(home / "images", client)
    # The first has the limits of who sets none; the owner of the second lets two numbers leave.
    numbers = 'numbers = ["held_out_loss", "kernel_distance"]\nmin_number_images = 5\n'
    (homes[1] / "policy.toml").write_text(numbers)
    with private_superlink(simulation=False) as superlink, ExitStack() as running:
        # The first is Flower's own, whose rounds take long enough for the second to be back before the evaluation.
        nodes = [
            running.enter_context(supernode(superlink, home, client, forks=client == 1))
            for client, home in enumerate(homes)
        ]
        command = superlink.command("run", str(REPOSITORY), "--stream", "--run-config", run_config(output))
        with (tmp_path / "flwr.log").open("w") as log:
            flwr = running.enter_context(subprocess.Popen(command, env=superlink.environment, stdout=log, stderr=log))
        running.callback(flwr.kill)
        wait_for(lambda: (output / "metrics.jsonl").exists() or flwr.poll() is not None, "the first round")
        secrets = [(home / "state" / "secret").read_bytes() for home in homes]
        stop(nodes[1])
        running.enter_context(supernode(superlink, homes[1], 1, forks=False))
        wait_for(lambda: flwr.poll() is not None, "the end of the run")
        (run,) = json.loads(superlink.flwr("ls", "--format", "json").stdout)["runs"]
        leave_request(homes[1] / "state", ImageRequest(3, 2, 9))
        left = contents(output)
        generated = superlink.flwr("run", str(REPOSITORY), "--stream", "--run-config", generate_config(output))
        assert "client 1: 11 images, in generated/ of its own state" in generated.stdout, generated.stdout
    record_property("seconds with two SuperNodes", round(time.monotonic() - began))
    assert run["status"] == "finished:completed", (tmp_path / "flwr.log").read_text()

    # The one that was gone missed a round, and is known for what it is afterwards.
    first, second = metrics(output)
    assert first["clients"].keys() == {"0", "1"}
    assert first["failed"] == {}
    assert second["clients"].keys() == {"0"}
    assert second["failed"].keys() == {"1"}
    assert "no reply within" not in second["failed"]["1"]
    assert [(home / "state" / "secret").read_bytes() for home in homes] == secrets
    assert len(set(secrets)) == 2

    # The server has its own network and what was uploaded; each client's own is on that client's disk alone.
    assert {path.name for path in output.iterdir()} == {
        ".lock",
        "config.json",
        "metrics.jsonl",
        "pictures",
        "server",
        "summary.json",
        "tensorboard",
    }
    assert (output / "server" / "backbone" / "unet").is_dir()
    seen = contents(output)
    for home, secret in zip(homes, secrets, strict=True):
        state = home / "state"
        assert {"secret", "ledger.jsonl", "runs"} <= {path.name for path in state.iterdir()}
        (own,) = (state / "runs").iterdir()
        assert {"denoiser", "samples.safetensors", "trained.json"} <= {path.name for path in own.iterdir()}
        (weights,) = (own / "denoiser").rglob("*.safetensors")
        assert weights.read_bytes() not in seen
        assert secret not in seen
        assert str(home).encode() not in seen
    assert contents(homes[0] / "state") != contents(homes[1] / "state")

    check_generated(tmp_path, output, homes, left)

    check_summary(output, homes)
