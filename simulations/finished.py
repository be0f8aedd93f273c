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

from collafuse_flwr.artifacts import read_config
from collafuse_flwr.config import FEDERATED, GANS, Config
from collafuse_flwr.data import FederationData, federation_data
from collafuse_flwr.errors import SettingError
from collafuse_flwr.folders import client_folder
from collafuse_flwr.process import Process
from collafuse_flwr.wire import Hello
from strategies.journal import Journal, Round
from strategies.pool import Pool


@dataclass(frozen=True, eq=False)
class Finished:
    """What a finished simulation left; `clients` are its summary's rows, `pool` is None if nothing was uploaded."""

    folder: Path
    process: Process
    data: FederationData
    clients: list[dict[str, Any]]
    rounds: list[Round]
    hello: Hello
    pool: Pool | None

    @classmethod
    def of(cls, folder: Path) -> Finished:
        """Open the folder of a run.

        Raises:
            SettingError: it holds no run, or one that has not come to its end, or whose clients were elsewhere.
            UserError: its settings, or the images, cannot be read.
        """
        if not (folder / "config.json").is_file():
            raise SettingError("run", str(folder), "the folder of a finished run")
        config, journal = read_config(folder), Journal(folder)
        refuse_gan(config, folder)
        saved = journal.load()
        if saved is None or not journal.hellos or not (folder / "summary.json").is_file():
            raise SettingError("run", str(folder), "the folder of a run that has reached its end")
        if not (folder / "clients").is_dir():
            raise SettingError("run", str(folder), "the folder of a simulation (this run's clients are elsewhere)")
        process, hello = Process.of(config), next(iter(journal.hellos.values()))
        return cls(
            folder,
            process,
            federation_data(config.data, config.run.num_supernodes, config.run.seed),
            json.loads((folder / "summary.json").read_text())["clients"],
            journal.rounds,
            hello,
            _pool(folder / "server" / "pool", process, hello, saved[1]),
        )

    @cached_property
    def backbone(self) -> nn.Module | None:
        """The server's network: the backbone, or the mean of the clients'; None if these share a part of it only."""
        folder, federated = self.folder / "server" / "backbone", self.process.config.run.strategy in FEDERATED
        if federated and not folder.is_dir():
            return None
        shape = self._shape()
        return load_trained(self.process.denoiser(0, *shape) if federated else self.process.backbone(*shape), folder)

    def denoiser(self, client: int) -> nn.Module:
        """A client's network."""
        return load_trained(
            self.process.denoiser(client, *self._shape()), client_folder(self.folder, client) / "denoiser"
        )

    def secret(self, client: int) -> bytes:
        """What keys the noise of a client's releases.

        Raises:
            SettingError: it is not there.
        """
        path = client_folder(self.folder, client) / "secret"
        if not path.is_file():
            raise SettingError("run", str(self.folder), f"the folder of a simulation (there is no {path})")
        return path.read_bytes()

    def _shape(self) -> tuple[int, int, int, int]:
        return self.hello.channels, self.hello.size, self.hello.num_classes, self.hello.num_attributes


def refuse_gan(config: Config, folder: Path) -> None:
    """Refuse the run of a GAN, which has no diffusion process.

    Raises:
        SettingError: it is one.
    """
    if config.run.strategy in GANS:
        raise SettingError("run", str(folder), f"a run of diffusion models, not of {config.run.strategy}")


def load_trained(network: nn.Module, folder: Path) -> nn.Module:
    """A network with the weights that a run left in a folder.

    Raises:
        SettingError: there are none.
    """
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if not path.is_file():
        raise SettingError("run", str(folder), "the folder of a finished run (its networks are not all there)")
    load_model(network, path)
    return network


def _pool(folder: Path, process: Process, hello: Hello, described: str) -> Pool | None:
    """The server's pool as it was at the end."""
    if not (folder / "x_k.bin").is_file():
        return None
    row = hello.channels, hello.size, hello.size
    pool = Pool(folder, row, process.config.split.upload_dtype, torch.device("cpu"), hello.num_attributes)
    pool.restore(described)
    return pool
