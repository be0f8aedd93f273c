"""The client side of every algorithm, by name, in a deployment and in a simulation."""

from __future__ import annotations

from pathlib import Path

from collafuse_flwr.client.base import BaseClient
from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.plugins import load_object
from collafuse_flwr.data.federated import ClientData, federation_data


def make_client(
    config: Config, client: int, data: ClientData, store: ClientStore, *, seeded_secret: bool
) -> BaseClient:
    """The client with these images and this disk.

    Raises:
        SettingError, DataError: the settings do not fit the images.
    """
    kind: type[BaseClient] = load_object("strategy", config.spec.client)
    return kind(client, config, data, store, seeded_secret=seeded_secret)


def make_simulated_client(config: Config, client: int, folder: Path) -> BaseClient:
    """The client that holds its share of the run's data set, and keeps its state in a folder.

    Raises:
        SettingError, DataError: the settings do not fit the images, or these cannot be read or dealt.
    """
    data = federation_data(config.data, config.run.num_supernodes, config.run.seed).client(client)
    return make_client(config, client, data, ClientStore(folder), seeded_secret=True)
