"""What an attack has before it: a finished run, and a client of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.data.federated import FederationData, federation_data
from collafuse_flwr.runs.cost_report import released_cut
from collafuse_flwr.runs.loaded_run import FinishedRun, load_history, summary_of
from collafuse_flwr.runs.reidentification import candidate_set
from collafuse_flwr.runs.run_dir import open_config
from simulations.attack.server_view import ServerView, received
from simulations.attack.shadow_models import ShadowAttacker
from simulations.attack.split_view import SplitRun, Uploaded


@dataclass(frozen=True, eq=False)
class AttackedRun:
    """A finished run, opened no further than an attack needs it; `clients` are its summary's rows."""

    folder: Path
    config: Config
    data: FederationData
    clients: list[dict[str, Any]]
    seed: int

    @classmethod
    def of(cls, folder: Path, seed: int) -> AttackedRun:
        """Open the folder of a run; `seed` is that of the attack.

        Raises:
            SettingError: it holds no run, or one that has not come to its end, or whose clients were elsewhere.
            UserError: its settings, or the images, cannot be read.
        """
        config = open_config(folder)
        load_history(folder)
        data = federation_data(config.data, config.run.num_supernodes, config.run.seed)
        return cls(folder, config, data, summary_of(folder), seed)

    @cached_property
    def diffusion(self) -> FinishedRun:
        """The run as one of diffusion models.

        Raises:
            SettingError: it is none.
        """
        return FinishedRun.of(self.folder)

    @cached_property
    def split(self) -> SplitRun:
        """The run as one of the split GAN."""
        return SplitRun.of(self.folder)

    @cached_property
    def shadow(self) -> ShadowAttacker:
        """The attacker's own images, and what it learns from them."""
        return ShadowAttacker.of(self.diffusion, self.seed)

    @cached_property
    def candidates(self) -> list[Tensor]:
        """Rows of the training images of each client that are attacked by name."""
        return candidate_set(self.data)


@dataclass(frozen=True, eq=False)
class ClientTarget:
    """A client of a run; `summary` is its row there."""

    run: AttackedRun
    summary: dict[str, Any]

    @property
    def client(self) -> int:
        """Its number."""
        return int(self.summary["client"])

    @property
    def cut(self) -> int:
        """The step of its cut, of diffusion models; of the least noisy one where it moved."""
        return released_cut(self.summary)

    @cached_property
    def received(self) -> ServerView | None:
        """All releases of its images that came to the server; None if nothing came.

        Raises:
            UserError: the pool does not hold them.
        """
        return received(self.run.diffusion, self.client, self.run.candidates[self.client])

    @cached_property
    def uploaded(self) -> Uploaded | None:
        """Of the split GAN, the next batch that it would send; None of a client that had no part in it."""
        return self.run.split.uploaded(self.client)

    def row(self) -> dict[str, Any]:
        """What its row begins with: who it is, and its cut."""
        row = {name: self.summary[name] for name in ("client", "num_images")}
        if not self.run.config.spec.is_gan:
            return row | {"cut_step": self.cut}
        split = "activations" in self.run.config.spec.sends
        return row | ({"client_cuts": str(self.run.split.cuts[self.client])} if split else {})
