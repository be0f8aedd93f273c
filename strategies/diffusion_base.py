"""What the servers of all diffusion models do: set up the process, and agree on cuts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.setup.diffusion import diffusion_setup
from strategies.base import BaseStrategy


class DiffusionStrategy(BaseStrategy):
    """A federation of denoisers."""

    def __init__(self, config: Config, folder: Path, progress: Progress, clients: Callable[[int], Any]) -> None:
        super().__init__(config, folder, progress, clients)
        self.setup = diffusion_setup(config)

    def _cuts_in_words(self) -> str:
        cuts = sorted({client_info.cut_step for client_info in self.client_manager.client_infos.values()})
        return f", cut step {', '.join(map(str, cuts))} of {self.setup.schedule.timesteps}"
