"""The client side of every algorithm, by name, in a deployment and in a simulation."""

from __future__ import annotations

from pathlib import Path

from collafuse_flwr.client.collafuse import CollaFuseClient
from collafuse_flwr.client.cut_selection import select_cut
from collafuse_flwr.client.fedavg import FedAvgClient
from collafuse_flwr.client.fedgan import FedGanClient
from collafuse_flwr.client.huscf_gan import HuscfGanClient
from collafuse_flwr.client.hybrid import HybridClient
from collafuse_flwr.client.mdgan import MdGanClient
from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.config.sections import FEDERATED
from collafuse_flwr.data.federated import ClientData, federation_data
from collafuse_flwr.diffusion.setup import DiffusionSetup


def client_class(strategy: str) -> type[CollaFuseClient]:
    """The client side of a strategy; what differs from CollaFuse by a setting alone has CollaFuse's."""
    if strategy in FEDERATED:
        return FedAvgClient
    own: dict[str, type[CollaFuseClient]] = {
        "hybrid": HybridClient,
        "huscf_gan": HuscfGanClient,
        "fedgan": FedGanClient,
        "mdgan": MdGanClient,
    }
    return own.get(strategy, CollaFuseClient)


def make_client(
    config: Config, client: int, data: ClientData, store: ClientStore, *, seeded_secret: bool
) -> CollaFuseClient:
    """The client with these images and this disk.

    Raises:
        SettingError, DataError: the settings do not fit the images.
    """
    setup = DiffusionSetup.of(config)
    cut = select_cut(setup, data.train, client, store)
    return client_class(config.run.strategy)(client, setup, data, store, cut, seeded_secret)


def make_simulated_client(config: Config, client: int, folder: Path) -> CollaFuseClient:
    """The client that holds its share of the run's data set, and keeps its state in a folder.

    Raises:
        SettingError, DataError: the settings do not fit the images, or these cannot be read or dealt.
    """
    data = federation_data(config.data, config.run.num_supernodes, config.run.seed).client(client)
    return make_client(config, client, data, ClientStore(folder), seeded_secret=True)
