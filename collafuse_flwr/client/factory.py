"""The client side of every algorithm, by name, in a deployment and in a simulation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from collafuse_flwr.client.base import BaseClient
from collafuse_flwr.client.policy import Policy
from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.plugins import load_object
from collafuse_flwr.data.codec import pinned
from collafuse_flwr.data.federated import ClientData, federation_data


def make_client(
    config: Config,
    client: int,
    data: ClientData,
    store: ClientStore,
    *,
    seeded_secret: bool,
    run: str = "",
    policy: Policy | None = None,
) -> BaseClient:
    """The client with these images, this disk and these limits, in a run that has this name on its ledger.

    Raises:
        SettingError, DataError: the settings do not fit the images.
    """
    kind: type[BaseClient] = load_object("strategy", config.spec.client)
    return kind(client, config, data, store, seeded_secret=seeded_secret, run=run, policy=policy)


def make_simulated_client(
    config: Config, client: int, folder: Path, run: str = "", policy: Policy | None = None
) -> BaseClient:
    """The client that holds its share of the run's data set, and keeps its state in a folder.

    Its limits are those of its node, else those that `policy` in the settings names, else none.

    Raises:
        SettingError, DataError: the settings do not fit the images, or these cannot be read or dealt.
        PolicyError: the settings are beyond its limits.
    """
    if policy is None and config.run.policy:
        policy = Policy.load(Path(config.run.policy))
    if policy is not None:
        policy.check_imports(config.to_flat())
        named = replace(config, data=replace(config.data, codec=pinned(config.data.codec)))
        policy.check_settings(named, client)
    data = federation_data(config.data, config.run.num_supernodes, config.run.seed).client(client)
    return make_client(config, client, data, ClientStore(folder), seeded_secret=True, run=run, policy=policy)
