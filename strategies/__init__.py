"""The server side of every algorithm, as Flower strategies by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from collafuse_flwr.config.config import Config
from collafuse_flwr.config.sections import FEDERATED
from collafuse_flwr.core.progress import Progress
from strategies.clean_server import CleanServer
from strategies.collafuse import CollaFuse
from strategies.fedavg import PartialFedAvg
from strategies.fedgan import FedGan
from strategies.huscf_gan import HuscfGan
from strategies.hybrid import Hybrid
from strategies.mdgan import MdGan


def make_strategy(
    config: Config, folder: Path, progress: Progress, clients: Callable[[int], Any]
) -> CollaFuse | PartialFedAvg | FedGan | HuscfGan | MdGan:
    """The strategy that the settings name, for a run in `folder`; `clients` gives those of a simulation.

    What differs from CollaFuse by a setting alone (local, centralised, pfdm) is CollaFuse, and so for FedAvg.
    """
    if config.run.strategy in ("huscf_gan", "mdgan"):
        return (HuscfGan if config.run.strategy == "huscf_gan" else MdGan)(config, folder, progress, clients)
    own: dict[str, type[CollaFuse] | type[PartialFedAvg] | type[FedGan]] = {
        "hybrid": Hybrid,
        "oracle": CleanServer,
        "fedgan": FedGan,
    }
    own |= dict.fromkeys(FEDERATED, PartialFedAvg)
    return own.get(config.run.strategy, CollaFuse)(config, folder, progress)
