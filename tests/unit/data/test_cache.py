import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.data import federated as cache
from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.federated import federation_data, load_client_data
from collafuse_flwr.data.images import ImageSet
from collafuse_flwr.data.settings import DataConfig

SECRET = bytes(range(16))


def test_clients_that_are_threads_load_the_data_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def counting(config: DataConfig, seed: int) -> ImageSet:
        loaded.append(seed)
        return load_images(config, seed)

    monkeypatch.setattr(cache, "load_images", counting)
    config = DataConfig(max_images=300, partition="iid")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: federation_data(config, 4, 123), range(8)))
    assert loaded == [123]
    assert all(result is results[0] for result in results)
    federation_data(config, 4, 124)
    assert loaded == [123, 124]


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "by_class"])
def test_no_global_random_state_is_used_or_changed(kind: str) -> None:
    def state() -> tuple[object, ...]:
        numpy_state: Any = np.random.get_state()
        return torch.get_rng_state().tolist(), numpy_state[1].tolist(), numpy_state[2], random.getstate()

    config, before = DataConfig(max_images=500, partition=kind), state()
    first = federation_data(config, 5, 0).client(0)
    assert state() == before
    cache._federation_data.cache_clear()
    _ = torch.rand(1), np.random.random(), random.random()  # moves the global state on
    assert torch.equal(federation_data(config, 5, 0).client(0).train.images, first.train.images)


def test_clients_hold_what_their_partition_says() -> None:
    federation = federation_data(DataConfig(partition="by_class"), 5, 0)
    for i, partition in enumerate(federation.partitions):
        client = federation.client(i)
        assert torch.equal(client.train.images, federation.images.images[partition.train])
        assert torch.equal(client.held_out.labels, federation.images.labels[partition.held_out])
        assert len(torch.unique(client.train.labels)) == 2
        assert client.train.num_classes == client.held_out.num_classes == 10


def test_clients_cannot_change_the_images_of_others() -> None:
    federation = federation_data(DataConfig(), 3, 0)
    before = federation.images.images.clone()
    federation.client(0).train.images.zero_()
    assert torch.equal(federation.images.images, before)


@pytest.mark.parametrize("client", [-1, 3])
def test_clients_that_are_not_there_are_refused(client: int) -> None:
    with pytest.raises(DataError, match=rf"^`num_supernodes` = 3 has no client {client}"):
        federation_data(DataConfig(), 3, 0).client(client)


def test_a_deployed_client_holds_all_that_lies_at_its_path(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(20) % 2, classes=["a", "b", "c"])
    config, decoded = DataConfig(dataset=("npz",), dataset_path=(str(path),)), str(tmp_path / "decoded")
    own = load_client_data(config, SECRET, "", decoded)
    assert (len(own.train), len(own.held_out)) == (16, 4)
    assert len(torch.cat([own.train.images, own.held_out.images]).unique(dim=0)) == 20
    assert own.train.num_classes == 3
    shared = DataConfig(dataset=("npz",), dataset_path=("elsewhere.npz",))
    again = load_client_data(shared, SECRET, str(path), str(tmp_path / "other"))
    assert torch.equal(again.train.images, own.train.images)


def test_a_deployed_client_needs_three_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", images=np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(DataError, match=r"^`dataset_path` = .* at least 3 images, there are 2"):
        load_client_data(DataConfig(dataset=("npz",)), SECRET, str(tmp_path / "own.npz"), str(tmp_path))
