"""A finished run of a simulation: its settings, images and networks, and what its server holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import nn

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import DamagedError, SettingError
from collafuse_flwr.data.federated import FederationData, federation_data
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.diffusion.unet import WEIGHTS
from collafuse_flwr.runs.history import Checkpoint, History, RoundRecord
from collafuse_flwr.runs.run_dir import open_config
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.runs.upload_buffer import X_K, UploadBuffer
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.wire.common import ClientInfo


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """What a finished simulation left; `clients` are its summary's rows, `pool` is None if nothing was uploaded."""

    folder: Path
    config: Config
    setup: DiffusionSetup
    data: FederationData
    clients: list[dict[str, Any]]
    rounds: list[RoundRecord]
    client_info: ClientInfo
    pool: UploadBuffer | None

    @classmethod
    def of(cls, folder: Path) -> FinishedRun:
        """Open the folder of a run.

        Raises:
            SettingError: it holds no run, or one that has not come to its end, or whose clients were elsewhere.
            UserError: its settings, or the images, cannot be read.
        """
        config = open_config(folder, "run")
        refuse_gan(config, folder)
        history, checkpoint = load_history(folder)
        setup, client_info = diffusion_setup(config), next(iter(history.client_infos.values()))
        return cls(
            folder,
            config,
            setup,
            federation_data(config.data, config.run.num_supernodes, config.run.seed),
            summary_of(folder),
            history.rounds,
            client_info,
            open_pool(RunLayout(folder).pool, config, client_info, checkpoint),
        )

    @cached_property
    def backbone(self) -> nn.Module | None:
        """The server's network: the backbone, or the mean of the clients'; None if these share a part of it only."""
        folder, federated = RunLayout(self.folder).backbone, self.config.spec.averages_denoisers
        if federated and not folder.is_dir():
            return None
        shape = self.client_info.shape
        return load_trained(self.setup.denoiser(0, *shape) if federated else self.setup.backbone(*shape), folder)

    def denoiser(self, client: int) -> nn.Module:
        """A client's network."""
        network = self.setup.denoiser(client, *self.client_info.shape)
        return load_trained(network, RunLayout(self.folder).client(client).denoiser)

    def secret(self, client: int) -> bytes:
        """What keys the noise of a client's releases.

        Raises:
            SettingError: it is not there.
        """
        return secret_of(self.folder, client)


def load_history(folder: Path) -> tuple[History, Checkpoint]:
    """The rounds of a run, and what its strategy kept.

    Raises:
        SettingError: the run has not come to its end, or its clients were elsewhere.
    """
    history, layout = History(folder), RunLayout(folder)
    checkpoint = history.load()
    if checkpoint is None or not history.client_infos or not layout.summary.is_file():
        raise SettingError("run", str(folder), "the folder of a run that has reached its end")
    if not layout.clients.is_dir():
        raise SettingError("run", str(folder), "the folder of a simulation (this run's clients are elsewhere)")
    return history, checkpoint


def summary_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of a finished run's clients."""
    rows: list[dict[str, Any]] = json.loads(RunLayout(folder).summary.read_text())["clients"]
    return rows


def secret_of(folder: Path, client: int) -> bytes:
    """What a client of a run keeps from its server.

    Raises:
        SettingError: it is not there.
    """
    path = RunLayout(folder).client(client).secret
    if not path.is_file():
        raise SettingError("run", str(folder), f"the folder of a simulation (there is no {path})")
    return path.read_bytes()


def refuse_gan(config: Config, folder: Path, setting: str = "run") -> None:
    """Refuse the run of a GAN, in the folder that a setting names: it has no diffusion process.

    Raises:
        SettingError: it is one.
    """
    if config.spec.is_gan:
        raise SettingError(setting, str(folder), f"a run of diffusion models, not of {config.run.strategy}")


def load_trained(network: nn.Module, folder: Path) -> nn.Module:
    """A network with the weights that a run left in a folder.

    Raises:
        SettingError: there are none.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise SettingError("run", str(folder), "the folder of a finished run (its networks are not all there)")
    load_model(network, path)
    return network


def open_pool(folder: Path, config: Config, client_info: ClientInfo, checkpoint: Checkpoint) -> UploadBuffer | None:
    """The server's pool as of a checkpoint; None if nothing was uploaded."""
    if not (folder / X_K).is_file():
        return None
    row = client_info.channels, client_info.size, client_info.size
    pool = UploadBuffer(folder, row, config.upload.dtype, torch.device("cpu"), client_info.num_attributes)
    pool.restore(checkpoint.state["pool"])
    if pool.lost:
        raise DamagedError(folder / X_K)
    return pool
