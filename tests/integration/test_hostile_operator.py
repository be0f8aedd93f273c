"""Twelve wrong requests of whoever owns the SuperLink, to two SuperNodes whose owners have limits."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collafuse_flwr.client_app import MASKED
from collafuse_flwr.config.config import Config
from collafuse_flwr.privacy.ledger import Ledger
from simulations.disclosed import disclosed
from simulations.runners.environment import prepare_environment
from simulations.runners.superlink import SuperLink, free_port, private_superlink, stop

SETTINGS: dict[str, Any] = {
    "num-supernodes": 2,
    "dataset": "npz",
    "model": "nano",
    "cut-ratio": 0.6,
    "train.local-epochs": 1.0,
    "client.init-from": "random",
    "upload.share-labels": False,
    "device": "cpu",
}
#: What is requested, in which run: settings, and messages with the limit that each goes beyond (None: it is allowed,
#: empty: nothing may leave).
RUNS: list[tuple[dict[str, Any], list[tuple[str, int, str | None]]]] = [
    ({}, [("train", 3, None), ("train", 2, ""), ("train", 3, ""), ("evaluate", 0, ""), ("train.split", 4, "")]),
    ({"cut-ratio": 0.0}, [("train", 1, "max_snr_db")]),
    (
        {"strategy": "fedavg", "cut-ratio": 0.2, "upload.share-labels": True, "client.init-from": "backbone"},
        [("train", 1, "weights")],
    ),
    ({"upload.noise": "resampled"}, [("train", 2, "max_releases")]),
    ({"upload.clip-norm": 2.0}, [("train", 1, "max_releases")]),
    ({"upload.share-labels": True}, [("train", 1, "labels")]),
    ({"model": "os:system"}, [("train", 1, "imports")]),
    ({"client.batch-size": 1}, [("train", 1, "min_batch_size")]),
    ({"cut.policy": "by_disclosure", "cut.criterion": "bits", "cut.target": 1.0}, [("train", 1, "numbers")]),
]
APP = """
import json
import time
from pathlib import Path

import numpy as np
import torch
from flwr.app import Message
from flwr.serverapp import ServerApp

from collafuse_flwr.wire.codec import client_error, encode
from collafuse_flwr.wire.collafuse import SampleHandoff, TrainRequest
from collafuse_flwr.wire.split_gan import SplitRequest

app = ServerApp()


@app.main()
def main(grid, context):
    folder = Path(str(context.run_config["output"]))
    requests = json.loads((folder / "ask.json").read_text())
    while len(nodes := sorted(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    heard = []
    for i, (kind, round_, _) in enumerate(requests):
        request = {
            "train": TrainRequest(round=round_, num_rounds=9, want_upload=True),
            "evaluate": SampleHandoff(round=round_, x_k=torch.zeros(2, 1, 8, 8)),
            "train.split": SplitRequest(round_, 0, "latent", "0000", {}, {}),
        }[kind]
        for reply in grid.send_and_receive([Message(encode(request), node, kind) for node in nodes], timeout=240):
            error = "an error" if reply.has_error() else None
            refusal = None if reply.has_error() else client_error(reply.content)
            if refusal is not None:
                error = refusal.reason
            heard.append([i, error, {} if error else {n: sorted(r) for n, r in reply.content.items()}])
            if not error:
                upload = reply.content.array_records["upload"]
                np.save(folder / f"{len(heard)}.npy", upload["x_k"].numpy() * float(upload["scale"].numpy()[0]))
    (folder / "heard.json").write_text(json.dumps(heard))
"""


def app_folder(folder: Path) -> Path:
    """The operator's own ServerApp, with the ClientApp of this package."""
    folder.mkdir()
    (folder / "hostile.py").write_text(APP)
    settings = "\n".join(f'"{name}" = {json.dumps(value)}' for name, value in (Config().to_flower() | SETTINGS).items())
    (folder / "pyproject.toml").write_text(
        textwrap.dedent("""
            [build-system]
            requires = ["hatchling"]
            build-backend = "hatchling.build"
            [project]
            name = "hostile"
            version = "0.1.0"
            license = "Apache-2.0"
            [tool.flwr.app]
            publisher = "hostile"
            [tool.flwr.app.components]
            serverapp = "hostile:app"
            clientapp = "collafuse_flwr.client_app:app"
            [tool.flwr.app.config]
        """)
        + settings
    )
    return folder


def supernode(superlink: SuperLink, home: Path, client: int) -> subprocess.Popen[bytes]:
    """A SuperNode with images of its own, and limits in a file."""
    home.mkdir()
    images = np.random.default_rng(client).integers(0, 256, (30, 8, 8)).astype(np.uint8)
    np.savez(home / "images.npz", images=images, labels=np.arange(30) % 3)
    (home / "policy.toml").write_text("max_snr_db = 0\nmin_images = 20\n")
    config = f'partition-id={client} data-path="{home}/images.npz" state-path="{home}/state"'
    command = [sys.executable, "-m", "simulations.supernode", "--insecure", "--superlink", superlink.address]
    command += ["--port", str(free_port())]
    command += ["--node-config", f'{config} policy="{home}/policy.toml"']
    with (home / "supernode.log").open("ab") as log:
        return subprocess.Popen(
            command, env=superlink.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


@pytest.mark.usefixtures("warm")
def test_twelve_wrong_requests_are_refused_and_the_ledgers_show_what_left(tmp_path: Path) -> None:
    prepare_environment()
    homes, app = [tmp_path / "0", tmp_path / "1"], app_folder(tmp_path / "app")
    wrong = 0
    with private_superlink(simulation=False) as superlink, ExitStack() as running:
        for client, home in enumerate(homes):
            running.callback(stop, supernode(superlink, home, client))
        for number, (settings, requests) in enumerate(RUNS):
            folder = tmp_path / f"run-{number}"
            folder.mkdir()
            (folder / "ask.json").write_text(json.dumps(requests))
            given = SETTINGS | settings | {"output": str(folder)}
            line = " ".join(f"{name}={json.dumps(value)}" for name, value in given.items())
            done = superlink.flwr("run", str(app), "--stream", "--run-config", line)
            assert (folder / "heard.json").exists(), done.stdout + done.stderr
            heard = json.loads((folder / "heard.json").read_text())
            assert len(heard) == 2 * len(requests)
            for i, error, content in heard:
                limit = requests[i][2]
                if limit is None:
                    assert error is None
                    assert content == {"metrics": ["flops", "image_updates", "steps"], "upload": ["scale", "x_k"]}
                elif limit:
                    assert error.startswith(f"beyond the policy of this client's owner: `{limit}` = ")
                else:
                    assert error == MASKED
            wrong += sum(limit is not None for _, _, limit in requests)
    assert wrong == 12

    # What left is one release of each image, and the ledgers say so.
    uploads = [np.load(path) for path in sorted(tmp_path.glob("run-*/*.npy"))]
    assert len(uploads) == 2
    for home in homes:
        ledger = Ledger(home / "state" / "ledger.jsonl")
        assert [entry["kind"] for entry in ledger.entries].count("release") == 1
        assert [entry["kind"] for entry in ledger.entries].count("refusal") == 8
        assert ledger.exposure().releases == 1
        assert not ledger.exposure().unbounded
        shown = disclosed(ledger, 1e-5)
        assert (shown["whole"]["images"], shown["whole"]["releases"], shown["whole"]["dp_steps"]) == (24, 1, 0)
        assert sum(run.get("uploads", 0) for run in shown["runs"].values()) == 1
        assert not any(run.get(name) for run in shown["runs"].values() for name in ("weights", "activations", "labels"))
        (release,) = ledger.releases
        assert len(release.keys) == 24
        images = np.load(home / "images.npz")["images"]
        pixels = {row.tobytes() for row in images}
        assert not any(np.uint8((row + 1) * 127.5).tobytes() in pixels for rows in uploads for row in rows)
