"""Three clients with images, state and limits of their own, in this process: what each of them finds afterwards."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from flwr.common.serde import context_to_proto
from sklearn.datasets import load_digits

import collafuse_flwr as cf
from collafuse_flwr.client.generation import ImageRequest
from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.runs.run_dir import open_run
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.request import leave_request
from simulations.runners.app_loading import begin_run
from simulations.runners.local_grid import LocalGrid
from strategies.generation import generate_together
from tests.small_runs import run_strategy, small

CLIENTS = 3


class OwnDisks(LocalGrid):
    """Nodes as SuperNodes are: each with a folder of images and one of its state."""

    def __init__(self, config: Config, homes: Path) -> None:
        self._homes = homes
        super().__init__(client_app, begin_run(), config.to_flower(), CLIENTS)

    def add_node(self, partition: int) -> int:
        node, home = secrets.randbits(62) + 1, self._homes / str(partition)
        own: dict[str, Any] = {
            "partition-id": partition,
            "data-path": f"{home}/images.npz",
            "state-path": f"{home}/state",
        }
        context = Context(self._run.run_id, node, own, RecordDict(), dict(self._run_config))
        self._contexts[node] = context_to_proto(context)
        return node


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


@pytest.fixture
def homes(tmp_path: Path) -> Path:
    """A folder for each client, with 60 digits of five classes."""
    digits = load_digits(n_class=5)
    for client in range(CLIENTS):
        rows = slice(60 * client, 60 * (client + 1))
        (tmp_path / str(client)).mkdir()
        images = np.uint8(digits.images[rows] * 15)
        np.savez(tmp_path / str(client) / "images.npz", images=images, labels=digits.target[rows])
    return tmp_path


def test_images_lie_on_each_clients_disk_and_one_process_makes_the_same(homes: Path) -> None:
    folder = homes / "run"
    given: dict[str, Any] = {
        "dataset": "npz",
        "upload__share_labels": False,
        "num_rounds": 1,
        "num_supernodes": CLIENTS,
    }
    config = small(folder, **given | {"cut_ratio": 0.4, "train__local_epochs": 2.0})
    open_run(config, folder)
    run_strategy(config, OwnDisks(config, homes))
    leave_request(homes / "2" / "state", ImageRequest(3, 2, 9))
    wanted = {"task": "generate", "output": str(folder), "generate.num_images": 20, "generate.seed": 5}
    generating = Config.from_flat(wanted)
    before = {path for path in folder.rglob("*") if path.is_file()}
    generate_together(generating, OwnDisks(generating, homes), Progress(quiet=True), 7)
    # The server has a count, and no image.
    new = {path for path in folder.rglob("*") if path.is_file()} - before
    assert {path for path in new if not path.name.startswith(".")} == {RunLayout(folder).handed_over}
    whole, grids = shutil.copytree(folder, homes / "whole"), set()
    for client in range(CLIENTS):
        state = homes / str(client) / "state"
        (own,) = (state / "runs").iterdir()
        (made,) = (state / "generated").iterdir()
        assert made.name == own.name
        shutil.copytree(own, whole / "clients" / str(client))
        alone = homes / f"alone-{client}"
        cf.generate(whole, client=client, num_images=20, seed=5, output=str(alone))
        assert len(pictures(made / "0001")) == 21
        assert pictures(made / "0001") == pictures(alone)
        grids.add(pictures(alone)["grid.png"])
    assert len(grids) == CLIENTS
    assert pictures(made / "0002").keys() == {*(f"{i}-class-2.png" for i in range(3)), "grid.png"}
