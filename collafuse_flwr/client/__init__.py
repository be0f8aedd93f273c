"""The client side of every algorithm, by name."""

from collafuse_flwr.client.collafuse import CollaFuseClient
from collafuse_flwr.client.fedavg import FedAvgClient
from collafuse_flwr.client.hybrid import HybridClient
from collafuse_flwr.config import FEDERATED


def client_class(strategy: str) -> type[CollaFuseClient]:
    """The client side of a strategy; what differs from CollaFuse by a setting alone has CollaFuse's."""
    if strategy in FEDERATED:
        return FedAvgClient
    return HybridClient if strategy == "hybrid" else CollaFuseClient
