"""The server side of every algorithm, as Flower strategies by name."""

from __future__ import annotations

from pathlib import Path

from collafuse_flwr.config import Config
from collafuse_flwr.progress import Progress
from strategies.collafuse import CollaFuse

STRATEGIES = {"collafuse": CollaFuse}


def make_strategy(config: Config, folder: Path, progress: Progress) -> CollaFuse:
    """The strategy that the settings name, for a run in `folder`."""
    return STRATEGIES[config.run.strategy](config, folder, progress)
