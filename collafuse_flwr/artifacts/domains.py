"""Which data set each client has images of, where every client has images of one."""

from __future__ import annotations

from collafuse_flwr.config import Config
from collafuse_flwr.data import FederationData


def domains_of(config: Config, data: FederationData) -> dict[int, str]:
    """The name of each client's data set, numbered where `dataset` has it more than once; {} unless dealt by domain."""
    if config.data.partition != "by_domain":
        return {}
    sets = config.data.dataset.split("+")
    names = [f"{name} {i + 1}" if sets.count(name) > 1 else name for i, name in enumerate(sets)]
    domain = data.images.facts.groups["domain"]
    return {client: names[int(domain[own.train[0]])] for client, own in enumerate(data.partitions)}
