"""The server side of every algorithm, as Flower strategies by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from collafuse_flwr.config.config import Config
from collafuse_flwr.config.sections import FEDERATED
from collafuse_flwr.core.progress import Progress
from strategies.base import BaseStrategy
from strategies.clean_server import CleanServer
from strategies.collafuse import CollaFuse
from strategies.diffusion_base import DiffusionStrategy
from strategies.fedavg import PartialFedAvg
from strategies.fedgan import FedGan
from strategies.gan_base import GanStrategy
from strategies.huscf_gan import HuscfGan
from strategies.hybrid import Hybrid
from strategies.mdgan import MdGan

GAN_STRATEGIES: dict[str, type[GanStrategy]] = {"huscf_gan": HuscfGan, "fedgan": FedGan, "mdgan": MdGan}
#: What differs from CollaFuse by a setting alone (local, centralised, pfdm) is CollaFuse, and so for FedAvg.
DIFFUSION_STRATEGIES: dict[str, type[DiffusionStrategy]] = {
    **dict.fromkeys(FEDERATED, PartialFedAvg),
    "hybrid": Hybrid,
    "oracle": CleanServer,
}


def make_strategy(config: Config, folder: Path, progress: Progress, clients: Callable[[int], Any]) -> BaseStrategy:
    """The strategy that the settings name, for a run in `folder`; `clients` gives those of a simulation."""
    name = config.run.strategy
    if name in GAN_STRATEGIES:
        return GAN_STRATEGIES[name](config, folder, progress, clients)
    return DIFFUSION_STRATEGIES.get(name, CollaFuse)(config, folder, progress)
