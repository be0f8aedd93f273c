"""The server side of every algorithm, as Flower strategies by name."""

from __future__ import annotations

from pathlib import Path

from collafuse_flwr.config import FEDERATED, Config
from collafuse_flwr.progress import Progress
from strategies.collafuse import CollaFuse
from strategies.fedavg import FedAverage
from strategies.hybrid import Hybrid
from strategies.oracle import Oracle


def make_strategy(config: Config, folder: Path, progress: Progress) -> CollaFuse | FedAverage:
    """The strategy that the settings name, for a run in `folder`.

    What differs from CollaFuse by a setting alone (local, centralised, pfdm) is CollaFuse, and so for FedAvg.
    """
    own: dict[str, type[CollaFuse] | type[FedAverage]] = {"hybrid": Hybrid, "oracle": Oracle}
    own |= dict.fromkeys(FEDERATED, FedAverage)
    return own.get(config.run.strategy, CollaFuse)(config, folder, progress)
