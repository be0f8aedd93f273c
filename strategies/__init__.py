"""The server side of every algorithm, as Flower strategies by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.plugins import load_object
from collafuse_flwr.core.progress import Progress
from strategies.base import BaseStrategy


def make_strategy(config: Config, folder: Path, progress: Progress, clients: Callable[[int], Any]) -> BaseStrategy:
    """The strategy that the settings name, for a run in `folder`; `clients` gives those of a simulation.

    Raises:
        SettingError: its class cannot be imported.
    """
    strategy: BaseStrategy = load_object("strategy", config.spec.server)(config, folder, progress, clients)
    return strategy
