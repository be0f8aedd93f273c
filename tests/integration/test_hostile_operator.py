"""Wrong requests of whoever owns the SuperLink, to two SuperNodes whose owners have limits, and what then crosses."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collafuse_flwr.client_app import MASKED
from collafuse_flwr.config.config import Config, without_unread
from collafuse_flwr.data.federated import load_client_data
from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.privacy.release import upload_order
from collafuse_flwr.wire.common import EvaluateReply
from simulations.disclosed import disclosed
from simulations.runners.environment import prepare_environment
from simulations.runners.superlink import SuperLink, free_port, private_superlink, stop
from tests.cable import cable
from tests.captures import calls, likeness, pushed, shapes

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
#: All that may leave: training and its release, what is said of samples, and, of Flower itself, these calls.
TRAINED = {
    "metrics": ["flops", "image_updates", "steps"],
    "upload": {"scale": ("float32", (1,)), "x_k": ("int8", (24, 1, 8, 8))},
}
EVALUATED = {
    "metrics": sorted(
        {own.name for own in fields(EvaluateReply)} - {"bits", "held_out_loss", "kernel_distance", "seconds"}
    )
}
CALLS = {
    "register-node",
    "activate-node",
    "deactivate-node",
    "unregister-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "pull-object",
    "push-object",
    "confirm-message-received",
}
#: What is requested, in which run: settings, and messages with the limit that each goes beyond (None: it is allowed,
#: empty: nothing may leave). The first run comes before the others, the last one after them.
RUNS: list[tuple[dict[str, Any], list[tuple[str, int, str | None]]]] = [
    (
        {},
        [
            ("train", 3, None),
            ("train", 2, ""),
            ("train", 3, ""),
            ("evaluate", 0, ""),
            ("evaluate", 3, None),
            ("train.split", 4, ""),
        ],
    ),
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
    ({"sampling.handover": "best"}, [("evaluate", 1, "numbers")]),
    ({"codec": "sha256:" + "0" * 64}, [("train", 1, "codec"), ("evaluate", 1, "codec")]),
    (
        {"strategy": "huscf_gan"},
        [("train.split", 1, "weights"), ("evaluate.latent", 1, "weights"), ("train.feedback", 1, "weights")],
    ),
    ({"strategy": "mdgan"}, [("train.feedback", 1, "weights"), ("train.split", 1, "weights")]),
    ({"task": "generate"}, [("query.generate", 1, "max_generated"), ("train", 4, "")]),
]
APP = """
import json
import time
from pathlib import Path

import torch
from flwr.app import Message
from flwr.serverapp import ServerApp

from collafuse_flwr.wire.codec import client_error, encode
from collafuse_flwr.wire.collafuse import SampleHandoff, TrainRequest
from collafuse_flwr.wire.gan import DiscriminatorFeedbackRequest
from collafuse_flwr.wire.generation import GenerateHandoff
from collafuse_flwr.wire.split_gan import GenerateHeadRequest, SplitRequest

app = ServerApp()


@app.main()
def main(grid, context):
    folder = Path(str(context.run_config["output"]))
    requests = json.loads((folder / "ask.json").read_text())
    while len(nodes := sorted(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    heard, noise, ones = [], torch.randn(10, 1, 8, 8), torch.ones(10).long()
    for i, (kind, round_, _) in enumerate(requests):
        request = {
            "train": TrainRequest(round=round_, num_rounds=9, want_upload=True),
            "evaluate": SampleHandoff(round=round_, x_k=noise),
            "train.split": SplitRequest(round_, 0, "latent", "0000", {}, {}),
            "train.feedback": DiscriminatorFeedbackRequest(round_, 0, {"x_g": noise}, {"x_g": ones}, {}),
            "evaluate.latent": GenerateHeadRequest(round_, 10, "0000", {}),
            "query.generate": GenerateHandoff(round=round_, x_k=noise, label=-1, guidance=1.0, seed=0),
        }[kind]
        for reply in grid.send_and_receive([Message(encode(request), node, kind) for node in nodes], timeout=240):
            error = "an error" if reply.has_error() else None
            refusal = None if reply.has_error() else client_error(reply.content)
            if refusal is not None:
                error = refusal.reason
            heard.append([i, error])
    (folder / "heard.json").write_text(json.dumps(heard))
"""


def app_folder(folder: Path) -> Path:
    """The operator's own ServerApp, with the ClientApp of this package."""
    folder.mkdir()
    (folder / "hostile.py").write_text(APP)
    settings = "\n".join(f'"{name}" = {json.dumps(value)}' for name, value in Config().to_flower().items())
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


def supernode(superlink: SuperLink, address: str, home: Path, client: int) -> subprocess.Popen[bytes]:
    """A SuperNode with images of its own, and limits in a file, that reaches the SuperLink at an address."""
    home.mkdir()
    images = np.random.default_rng(client).integers(0, 256, (30, 8, 8)).astype(np.uint8)
    np.savez(home / "images.npz", images=images, labels=np.random.default_rng(client).permutation(30) % 3)
    (home / "policy.toml").write_text("max_snr_db = 0\nmin_images = 20\nmax_generated = 9\n")
    config = f'partition-id={client} data-path="{home}/images.npz" state-path="{home}/state"'
    command = [sys.executable, "-m", "simulations.supernode", "--insecure", "--superlink", address]
    command += ["--port", str(free_port())]
    command += ["--node-config", f'{config} policy="{home}/policy.toml"']
    with (home / "supernode.log").open("ab") as log:
        return subprocess.Popen(
            command, env=superlink.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def ask(superlink: SuperLink, app: Path, folder: Path, settings: dict[str, Any], requests: list[Any]) -> list[Any]:
    """Make requests in a run of its own, and say what each client answered to each: its error, if it is one."""
    folder.mkdir(parents=True)
    (folder / "ask.json").write_text(json.dumps(requests))
    read = without_unread({name.replace("-", "_"): value for name, value in (SETTINGS | settings).items()})
    sent = {name.replace("_", "-"): value for name, value in read.items()} | {"output": str(folder)}
    line = " ".join(f"{name}={json.dumps(value)}" for name, value in sent.items())
    done = superlink.flwr("run", str(app), "--stream", "--run-config", line)
    assert (folder / "heard.json").exists(), done.stdout + done.stderr
    heard: list[Any] = json.loads((folder / "heard.json").read_text())
    return heard


@pytest.mark.usefixtures("warm")
def test_what_is_beyond_a_policy_is_refused_and_crosses_in_no_message(tmp_path: Path) -> None:
    prepare_environment()
    homes, app = [tmp_path / "0", tmp_path / "1"], app_folder(tmp_path / "app")
    with private_superlink(simulation=False) as superlink, ExitStack() as running:
        taps = [running.enter_context(cable(superlink.address, tapped=True)) for _ in homes]
        for client, (home, tap) in enumerate(zip(homes, taps, strict=True)):
            running.callback(stop, supernode(superlink, tap.address, home, client))
        # The last one goes by the name of the first, whose clients have trained.
        names = [f"run-{number}" for number in range(len(RUNS) - 1)] + ["again/run-0"]
        jobs = [(tmp_path / name, *run) for name, run in zip(names, RUNS, strict=True)]
        heard = [ask(superlink, app, *jobs[0])]
        # Two at a time: they wait for each other's processes to start.
        with ThreadPoolExecutor(2) as pool:
            heard += pool.map(lambda job: ask(superlink, app, *job), jobs[1:])
    refused = 0
    for (_, requests), answers in zip(RUNS, heard, strict=True):
        assert len(answers) == 2 * len(requests)
        for i, error in answers:
            limit = requests[i][2]
            if limit is None:
                assert error is None
            elif limit:
                assert error.startswith(f"beyond the policy of this client's owner: `{limit}` = ")
            else:
                assert error == MASKED
            refused += limit is not None
    assert refused == 2 * 22

    for home, tap in zip(homes, taps, strict=True):
        check_ledger(Ledger(home / "state" / "ledger.jsonl"))
        check_capture(tap.captures, [own for other in taps for own in other.captures], home)


def check_ledger(ledger: Ledger) -> None:
    """What left is one release of each image, and the ledger says so."""
    assert [entry["kind"] for entry in ledger.entries].count("release") == 1
    assert [entry["kind"] for entry in ledger.entries].count("refusal") == 13
    assert ledger.exposure().releases == 1
    assert not ledger.exposure().unbounded
    shown = disclosed(ledger, 1e-5)
    assert (shown["whole"]["images"], shown["whole"]["releases"], shown["whole"]["dp_steps"]) == (24, 1, 0)
    assert sum(run.get("uploads", 0) for run in shown["runs"].values()) == 1
    assert not any(run.get(name) for run in shown["runs"].values() for name in ("weights", "activations", "labels"))
    (release,) = ledger.releases
    assert len(release.keys) == 24


def check_capture(captures: list[bytearray], all_captures: list[bytearray], home: Path) -> None:
    """Of all that a SuperNode sent, only what its policy lets out is about the images."""
    contents = pushed(captures, all_captures)
    assert {path for path, _ in calls(captures)} <= CALLS
    left = [own for content in contents if (own := shapes(content)) != {"config": ["reason"]}]
    assert sorted(left, key=len) == [EVALUATED, TRAINED]
    crossed = b"".join(body for _, body in calls(all_captures))
    (upload,) = [content.array_records["upload"] for content in contents if "upload" in content]
    assert likeness(crossed, upload["x_k"].numpy()) > 0.999
    images = np.load(home / "images.npz")["images"]
    # The noise of a release leaves less than this of its image; any row of pixels would be its own.
    assert likeness(crossed, images) < 0.95
    for row in images.reshape(-1, 8):
        unit = row.astype(np.float32) / 255
        assert not any(own.tobytes() in crossed for own in (row, unit, 2 * unit - 1))
    secret = (home / "state" / "secret").read_bytes()
    data = load_client_data(Config.from_flat(SETTINGS).data, secret, str(home / "images.npz"), str(home / "cache"))
    trained = data.train.labels
    released = trained[upload_order(secret, range(1), len(trained))]
    for labels in (np.load(home / "images.npz")["labels"], trained.numpy(), released.numpy()):
        assert likeness(crossed, labels[None]) < 0.95
