"""What the server of a finished split GAN would receive next of real images."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from collafuse_flwr.client.factory import make_simulated_client
from collafuse_flwr.client.huscf_gan import HuscfGanClient
from collafuse_flwr.config.config import Config
from collafuse_flwr.data.federated import FederationData, federation_data
from collafuse_flwr.gan.networks import Architecture, Blocks, Cuts
from collafuse_flwr.gan.split_gan.factored_gradients import expand
from collafuse_flwr.gan.split_gan.precision import quantize_roundtrip
from collafuse_flwr.gan.split_gan.server_half import ServerHalf
from collafuse_flwr.runs.history import Checkpoint
from collafuse_flwr.runs.loaded_run import load_history, secret_of
from collafuse_flwr.runs.run_dir import read_config
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.setup.gan import build_gan_architecture, build_optim_config
from collafuse_flwr.setup.gan_cuts import spare_cuts
from strategies.client_clustering import clusters_restored, initial_blocks
from strategies.split_transport import ActivationShapes


@dataclass(frozen=True)
class Uploaded:
    """A client's batch of real images x, (n, channels, size, size), and labels, (n,), and what the server has of them.

    `x` is as the discriminator sees it, under an augmentation if there is one. `activations` are the discriminator's,
    as they arrive, and `codes` the generator's of the same batch; `head` and `generator` are what made them, as the
    server knows it; under noise the head normalises by `running` statistics. `features` are what the server sends on to
    the discriminator's `tail`, and `gradient` is what comes back.
    """

    x: Tensor
    labels: Tensor
    activations: Tensor
    codes: Tensor
    head: Blocks
    generator: Blocks
    running: bool
    features: Tensor
    gradient: Tensor
    tail: Blocks


@dataclass(frozen=True, eq=False)
class SplitRun:
    """What a finished simulation of the split GAN left; `round` is the next."""

    folder: Path
    config: Config
    data: FederationData
    architecture: Architecture
    cuts: dict[int, Cuts]
    round: int
    checkpoint: Checkpoint

    @classmethod
    def of(cls, folder: Path) -> SplitRun:
        """Open the folder of a run.

        Raises:
            SettingError: it holds no run, or one that has not come to its end, or whose clients were elsewhere.
            UserError: its settings, or the images, cannot be read.
        """
        config = read_config(folder)
        history, checkpoint = load_history(folder)
        client_info, last = next(iter(history.client_infos.values())), history.rounds[-1]
        return cls(
            folder,
            config,
            federation_data(config.data, config.run.num_supernodes, config.run.seed),
            build_gan_architecture(config, client_info.channels, client_info.size, client_info.num_classes),
            {int(client): Cuts.parse(text) for client, text in last.server["client_cuts"].items()},
            last.round + 1,
            checkpoint,
        )

    def uploaded(self, client: int) -> Uploaded | None:
        """The first batch after the last average, were there another round; None of a client that had no part in one.

        The client itself answers, from its own secret, with the noise and the rounding of the run.

        Raises:
            SettingError: its secret is not there.
        """
        secret_of(self.folder, client)
        cuts = self.cuts[client]
        wanted = cuts.template(self.architecture)
        blocks = initial_blocks(*clusters_restored(self.checkpoint), self.checkpoint.tensors["server"], client, wanted)
        if not blocks:
            return None
        folder = RunLayout(self.folder).client(client).folder
        player = cast(HuscfGanClient, make_simulated_client(self.config, client, folder))
        session = player.open_round(self.round, str(cuts), blocks)
        codes = session.answer(0, "latent", {})["gh"]
        # The fake half of the batch is normalised on its own: what is sent down leaves no trace in the real one.
        rows = self.config.gan.batch_size
        gt = torch.zeros((rows, *ActivationShapes(self.architecture, rows, factored=False).cut(cuts, "gt")))
        shown = session.answer(0, "fake", {"gt": gt})
        batch = session.half.tape.batch
        assert batch is not None
        dtype, parts = self.config.gan.wire_dtype, session.half.parts
        tail = copy.deepcopy(parts["d_tail"]).cpu()
        passed = {name.replace("dh", "dt"): self._through(client, dh) for name, dh in shown.items()}
        judged = expand(session.answer(0, "judge", passed), passed["dt_real"].shape[1:])
        real, dt = shown["dh_real"], passed["dt_real"]
        return Uploaded(
            batch.shown("dh_real", batch.x).cpu(),
            batch.labels.cpu(),
            quantize_roundtrip(real.cpu(), dtype),
            quantize_roundtrip(codes.cpu(), dtype),
            parts["d_head"].cpu(),
            parts["g_head"].cpu(),
            self.config.split_gan.activation_noise > 0,
            dt.cpu(),
            quantize_roundtrip(judged["grad_dt_real"].cpu(), dtype),
            tail,
        )

    def _through(self, client: int, dh: Tensor) -> Tensor:
        """What the server's blocks of the discriminator make of a client's activations."""
        optim_config = build_optim_config(self.config)
        server = ServerHalf(self.architecture, self.cuts, ("attacked",), optim_config, spare_cuts(self.config))
        server.load_blocks(self.checkpoint.tensors["server"])
        return server.forward("discriminator", {client: dh}).outputs[client].detach()
