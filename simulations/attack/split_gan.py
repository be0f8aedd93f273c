"""What the server of a finished split GAN would receive next of real images, and these images made of it again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from collafuse_flwr.client.factory import make_simulated_client
from collafuse_flwr.client.huscf_gan import HuscfGanClient
from collafuse_flwr.config.config import Config
from collafuse_flwr.data.federated import FederationData, federation_data
from collafuse_flwr.data.images import normalize
from collafuse_flwr.evaluation.image_similarity import image_similarity
from collafuse_flwr.gan.networks import Architecture, Blocks, Cuts
from collafuse_flwr.gan.split_gan.precision import quantize_roundtrip
from collafuse_flwr.privacy.attacks.activation_inversion import InvertedBatch, SolvableStem, invert_activations
from collafuse_flwr.privacy.attacks.activation_inversion_search import search_activation_inversion
from collafuse_flwr.privacy.attacks.label_recovery import recover_labels_and_codes
from collafuse_flwr.runs.history import Checkpoint
from collafuse_flwr.runs.loaded_run import load_history, secret_of, summary_of
from collafuse_flwr.runs.run_dir import read_config
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.setup.gan import build_gan_architecture
from simulations.attack.reconstruction import SHOWN, BestReconstructions
from strategies.client_clustering import clusters_restored, initial_blocks
from strategies.split_transport import ActivationShapes

#: What inverted the activations.
CLOSED_FORM, SEARCH = "closed form", "search"


@dataclass(frozen=True)
class Uploaded:
    """A client's batch of real images x, (n, channels, size, size), and labels, (n,), and what the server has of them.

    `activations` are the discriminator's, as they arrive, and `codes` the generator's of the same labels; `head` and
    `generator` are what made them, as the server knows it.
    """

    x: Tensor
    labels: Tensor
    activations: Tensor
    codes: Tensor
    head: Blocks
    generator: Blocks


@dataclass(frozen=True, eq=False)
class SplitRun:
    """What a finished simulation of the split GAN left; `clients` are its summary's rows, `round` is the next."""

    folder: Path
    config: Config
    data: FederationData
    clients: list[dict[str, Any]]
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
            summary_of(folder),
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
        known = initial_blocks(*clusters_restored(self.checkpoint), self.checkpoint.tensors["server"], client, wanted)
        if not known:
            return None
        folder = RunLayout(self.folder).client(client).folder
        session = cast(HuscfGanClient, make_simulated_client(self.config, client, folder)).open_round(
            self.round, str(cuts), known
        )
        codes = session.answer(0, "latent", {})["gh"]
        # The fake half of the batch is normalised on its own: what is sent down leaves no trace in the real one.
        rows = self.config.gan.batch_size
        gt = torch.zeros((rows, *ActivationShapes(self.architecture, rows, factored=False).cut(cuts, "gt")))
        real = session.answer(0, "fake", {"gt": gt})["dh_real"]
        batch = session.half.tape.batch
        assert batch is not None
        dtype, parts = self.config.gan.wire_dtype, session.half.parts
        return Uploaded(
            batch.x.cpu(),
            batch.labels.cpu(),
            quantize_roundtrip(real.cpu(), dtype),
            quantize_roundtrip(codes.cpu(), dtype),
            parts["d_head"].cpu(),
            parts["g_head"].cpu(),
        )


def attack_split(
    run: SplitRun, known: dict[str, Any], guess: Tensor, num_rows: int, num_steps: int
) -> tuple[dict[str, Any], BestReconstructions | None]:
    """The row of a client, whose row of the summary is `known`, and its images that are rebuilt best.

    `num_rows` of the batch are inverted in closed form; where there is none all are searched for, in `num_steps` (0:
    not at all). `guess`, (channels, size, size), is the image of who receives nothing.

    Raises:
        SettingError: as `SplitRun.uploaded`.
    """
    client = int(known["client"])
    row: dict[str, Any] = {"client": client, "num_images": known["num_images"], "client_cuts": str(run.cuts[client])}
    seen = run.uploaded(client)
    if seen is not None:
        row |= {"labels_codes": _labels_of_codes(seen), "labels_split_chance": 1 / run.architecture.num_classes}
    method, found = (None, None) if seen is None else _inverted(seen, num_rows, num_steps)
    row |= {"method": method}
    if seen is None or found is None:
        return row, None
    x, labels = seen.x[: len(found.images)], seen.labels[: len(found.labels)]
    fidelity, nothing = image_similarity(x, found.images), image_similarity(x, guess.expand_as(x))
    row |= {
        "rows": len(x),
        "labels_split": (found.labels == labels).double().mean().item(),
        "psnr_split": fidelity.psnr,
        "psnr_chance": nothing.psnr,
        "ssim_split": fidelity.ssim,
        "ssim_chance": nothing.ssim,
    }
    best = fidelity.per_image.argsort(descending=True)[:SHOWN]
    return row, BestReconstructions(fidelity.per_image[best], {"original": x[best], "split": found.images[best]})


def mean_image(data: FederationData) -> Tensor:
    """The mean of the images that all clients hold out, (channels, size, size)."""
    rows = torch.cat([partition.held_out for partition in data.partitions]).unique()
    return normalize(data.images.images[rows]).mean(dim=0)


def _labels_of_codes(seen: Uploaded) -> float | None:
    """The share of labels recovered from the generator's head; None where it is more than one block."""
    if seen.generator.indices != (0,):
        return None
    found = recover_labels_and_codes(seen.generator[0].state_dict(), seen.codes)
    return (found.labels == seen.labels).double().mean().item()


def _inverted(seen: Uploaded, num_rows: int, num_steps: int) -> tuple[str | None, InvertedBatch | None]:
    """Images and labels, and how they were found; nothing where only a search would do and none is wanted."""
    if seen.head.indices == (0,):
        stem, some = SolvableStem.of(seen.head[0].state_dict()), seen.activations[:num_rows]
        if stem.solvable:
            return CLOSED_FORM, invert_activations(stem, some)
    if not num_steps:
        return None, None
    # All rows were normalised together, and are searched together.
    return SEARCH, search_activation_inversion(seen.head, seen.activations, seen.x.shape[1], num_steps)
