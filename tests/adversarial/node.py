"""A client with images of its own, as a SuperNode has it, and what an operator may send to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Message, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr import client_app
from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config, without_unread
from collafuse_flwr.data.federated import load_client_data
from collafuse_flwr.data.images import normalize
from collafuse_flwr.privacy.ledger import Ledger, Release
from collafuse_flwr.privacy.release import upload_order
from collafuse_flwr.wire.codec import ClientError, client_error, decode, encode
from collafuse_flwr.wire.collafuse import TrainReply, TrainRequest
from simulations.runners.app_loading import begin_run

#: Settings under which a message is answered in a moment.
QUICK: dict[str, Any] = {
    "num_supernodes": 1,
    "dataset": "npz",
    "model": "nano",
    "device": "cpu",
    "diffusion.schedule": "linear",
    "train.local_epochs": 0.01,
    "client.init_from": "random",
    "upload.dtype": "float32",
    "upload.share_labels": False,
}


#: The policy of an owner who lets out as much as ever possible.
OPEN = "max_releases = 1000\nmax_snr_db = 100\nlabels = true\nmin_batch_size = 1\n"


def some_images(count: int = 20, size: int = 8) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size)).astype(np.uint8)


class Node:
    """One client, whose disk and policy outlive every run."""

    def __init__(self, folder: Path, policy: str | None = None, images: NDArray[np.uint8] | None = None) -> None:
        self.folder, self.state = folder, folder / "state"
        images = some_images() if images is None else images
        np.savez(folder / "images.npz", images=images, labels=np.arange(len(images)) % 3)
        self.node: dict[str, Any] = {
            "partition-id": 0,
            "data-path": str(folder / "images.npz"),
            "state-path": str(self.state),
        }
        if policy is not None:
            (folder / "policy.toml").write_text(policy)
            self.node["policy"] = str(folder / "policy.toml")

    def ask(self, kind: str, request: object, reply: type[Any], run: int = 1, **settings: Any) -> Any:
        """The answer to a message, or the client's reason for none; `group__name=2` stands for `group.name=2`."""
        return self.send(kind, request, reply, self.run_config(**settings), run)

    def run_config(self, **settings: Any) -> dict[str, Any]:
        """The settings of a run as they come to the client, without those that its strategy does not read."""
        given = QUICK | {name.replace("__", "."): value for name, value in settings.items()}
        return dict(Config.from_flat(without_unread(given)).to_flower())

    def send(self, kind: str, request: object, reply: type[Any], run_config: dict[str, Any], run: int = 1) -> Any:
        """The same, under settings that need not be allowed."""
        begin_run()
        context = Context(run, 1, dict(self.node), RecordDict(), run_config)
        content = client_app.answer(Message(encode(request), 1, kind), context).content
        refusal: ClientError | None = client_error(content)
        return refusal or decode(reply, content)

    def train(self, round_: int = 1, upload: bool = True, run: int = 1, **settings: Any) -> Any:
        """The answer to a TrainRequest."""
        request = TrainRequest(round=round_, num_rounds=100, want_upload=upload)
        return self.ask("train", request, TrainReply, run, **settings)

    def upload(self, round_: int = 1, run: int = 1, **settings: Any) -> Tensor | None:
        """What is uploaded, None if nothing is."""
        reply = self.train(round_, run=run, **settings)
        upload = None if isinstance(reply, ClientError) else reply.upload
        return None if upload is None else torch.from_numpy(upload.x_k).float() * upload.scale

    def x_0(self, **settings: Any) -> Tensor:
        """The client's training images, in [-1, 1]."""
        data = Config.from_flat(QUICK | settings).data
        secret = ClientStore(self.state).secret(None, 0)
        train = load_client_data(data, secret, str(self.folder / "images.npz"), str(self.folder / "cache")).train
        return normalize(train.images)

    def in_order(self, upload: Tensor, draws: range = range(1)) -> Tensor:
        """The rows of an upload as the images lie, which no operator could do."""
        secret = (self.state / "secret").read_bytes()
        return upload[upload_order(secret, draws, len(upload) // len(draws)).argsort()]


def ledger_of(node: Node) -> Ledger:
    return Ledger(node.state / "ledger.jsonl")


def a_release(*keys: str, draws: tuple[int, ...] = (0,), snr: float = 0.1, **other: Any) -> Release:
    return replace(Release(keys, draws, snr, 0.0, (1, 8, 8)), **other)
