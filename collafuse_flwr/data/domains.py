"""Which data set each client has images of, where every client has images of one."""

from __future__ import annotations

from collafuse_flwr.data.federated import FederationData
from collafuse_flwr.data.settings import DataConfig


def client_domains(config: DataConfig, data: FederationData) -> dict[int, str]:
    """The name of each client's data set, numbered where `dataset` has it more than once; {} unless dealt by domain."""
    if config.partition != "by_domain":
        return {}
    sets = config.dataset
    names = [f"{name} {i + 1}" if sets.count(name) > 1 else name for i, name in enumerate(sets)]
    domain = data.images.metadata.groups["domain"]
    return {client: names[int(domain[own.train[0]])] for client, own in enumerate(data.partitions)}
