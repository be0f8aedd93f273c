"""The client side of every algorithm, by name."""

from collafuse_flwr.client.collafuse import CollaFuseClient
from collafuse_flwr.client.cut import own_cut
from collafuse_flwr.client.fedavg import FedAvgClient
from collafuse_flwr.client.fedgan import FedGanClient
from collafuse_flwr.client.huscf_gan import HuscfGanClient
from collafuse_flwr.client.hybrid import HybridClient
from collafuse_flwr.client.mdgan import MdGanClient
from collafuse_flwr.client.store import ClientStore
from collafuse_flwr.config import FEDERATED, Config
from collafuse_flwr.data import ClientData
from collafuse_flwr.process import Process


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
    process = Process.of(config)
    cut = own_cut(process, data.train, client, store)
    return client_class(config.run.strategy)(client, process, data, store, cut, seeded_secret)
