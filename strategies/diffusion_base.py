"""What the servers of all diffusion models do: set up the process, and agree on cuts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.data.codec import pinned
from collafuse_flwr.data.settings import NO_DATASET
from collafuse_flwr.diffusion.start import load_start
from collafuse_flwr.runs.run_dir import codec_of, read_config
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.setup.planned_work import planned_work
from collafuse_flwr.wire.codec import Weights
from strategies.base import BaseStrategy


class DiffusionStrategy(BaseStrategy):
    """A federation of denoisers."""

    def __init__(self, config: Config, folder: Path, progress: Progress, clients: Callable[[int], Any]) -> None:
        super().__init__(config, folder, progress, clients)
        self.setup = diffusion_setup(config)

    def summary(self) -> None:
        """Show what is about to run, and plan how long it takes."""
        super().summary()
        clients = [(own.num_images, own.cut_step) for own in self.client_manager.client_infos.values()]
        self.progress.plan(planned_work(self.config, clients, measured=self.layout.clients.is_dir()))

    def _load_start(self, network: nn.Module) -> Weights:
        """What a network like this starts from by `start_from`; nothing where it is made from scratch.

        Raises:
            SettingError: it does not fit.
        """
        folder, setup = Path(self.config.diffusion.start_from), self.setup
        if not self.config.diffusion.start_from:
            return {}
        if RunLayout(folder).config.is_file() and not _knows_all_steps(read_config(folder)):
            allowed = "of a run whose backbone knows all steps: centralized, fedavg, or one with public images"
            raise SettingError("start_from", str(folder), allowed)
        # The folder may be that of the run's backbone.
        for run in (folder, *folder.absolute().parents[:2]):
            if RunLayout(run).config.is_file() and codec_of(run) != pinned(self.config.data.codec):
                raise SettingError("start_from", str(folder), "of a run in the latents of the same `codec`")
        return load_start(folder, network, setup.schedule, setup.objective.prediction)

    def _cuts_in_words(self) -> str:
        cuts = sorted({client_info.cut_step for client_info in self.client_manager.client_infos.values()})
        return f", cut step {', '.join(map(str, cuts))} of {self.setup.schedule.timesteps}"


def _knows_all_steps(config: Config) -> bool:
    """Whether the backbone of a run has been trained on every step, not above a cut alone."""
    clean = not any(config.cut_ratios()) or config.public.dataset != NO_DATASET
    return not config.spec.is_gan and (config.spec.averages_denoisers or clean)
