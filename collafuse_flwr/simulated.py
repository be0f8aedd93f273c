"""The clients of a simulation, in whichever process they are wanted."""

from __future__ import annotations

from pathlib import Path

from collafuse_flwr.client import make_client
from collafuse_flwr.client.collafuse import CollaFuseClient
from collafuse_flwr.client.store import ClientStore
from collafuse_flwr.config import Config
from collafuse_flwr.data import federation_data


def simulated_client(config: Config, client: int, folder: Path) -> CollaFuseClient:
    """The client that holds its share of the run's data set, and keeps its state in a folder.

    Raises:
        SettingError, DataError: the settings do not fit the images, or these cannot be read or dealt.
    """
    data = federation_data(config.data, config.run.num_supernodes, config.run.seed).client(client)
    return make_client(config, client, data, ClientStore(folder), seeded_secret=True)
