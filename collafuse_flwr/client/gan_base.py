"""What the clients of all GANs do: draw batches, and generate samples with labels of their own choice."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from collafuse_flwr.client.base import BaseClient
from collafuse_flwr.client.split_session import Batches, batch_flops
from collafuse_flwr.client.state_store import ClientState, ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.federated import ClientData
from collafuse_flwr.gan.fedgan import UnsplitGan
from collafuse_flwr.gan.mdgan import Generator
from collafuse_flwr.gan.networks import LATENT, Architecture
from collafuse_flwr.gan.split_gan.ops import OptimConfig
from collafuse_flwr.setup.gan import build_gan_architecture, build_optim_config
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.common import EvaluateReply
from collafuse_flwr.wire.gan import GanWorkRequest
from collafuse_flwr.wire.split_gan import GanTrainMetrics


class GanClient(BaseClient):
    """A client of a GAN."""

    def __init__(self, client: int, config: Config, data: ClientData, store: ClientStore, **owner: Any) -> None:
        super().__init__(client, config, data, store, **owner)
        # Of no use to a GAN; like everything that clients say of themselves, it must be what the settings say.
        self.cut = config.cut_steps()[client]

    @property
    def _begun_by(self) -> str:
        """What a round must be gone on with: its run, and all settings, which say what is noised before it leaves."""
        settings = json.dumps([self.ledger.run, self.config.to_flat()], sort_keys=True)
        return hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()

    def _check_steps(self, steps: int) -> None:
        """Refuse that many optimiser steps in a round, before any more are taken."""
        if self.policy is not None:
            self.policy.check_steps(steps)

    def _check_trained(self, steps: int) -> None:
        """Refuse to let out what a round of so few steps has come to."""
        if self.policy is not None:
            self.policy.check_training(steps, ())

    def _check_count(self, count: int) -> None:
        """Refuse samples that are not as the settings say.

        Raises:
            SettingError: they are more, or fewer than two.
        """
        wanted = self.config.evaluation.num_samples
        if not 2 <= count <= wanted:
            raise SettingError("evaluation.num_samples", wanted, f"at least 2, and the server's {count} for a client")

    def _keep(self, samples: Tensor, labels: Tensor, flops: int, *, bits: float, began: float) -> EvaluateReply:
        """Keep samples, and say what they are like; `flops` is what one of them cost, `began` the time."""
        self.store.save_samples(samples, labels)
        return EvaluateReply(
            num_samples=len(samples),
            kernel_distance=self._distance(samples),
            seconds=time.perf_counter() - began,
            flops_per_image=flops,
            bits=bits,
        )

    def _codes(self, count: int, round_: int) -> Tensor:
        """Latent codes of samples, (count, 100)."""
        return torch.randn((count, LATENT), generator=self._stream("sample codes", round_))

    def _labels(self, count: int, round_: int) -> Tensor:
        """Classes of samples: as often as among the client's own training images, or all alike."""
        generator, images = self._stream("sample labels", round_), self.data.train
        if self.config.gan.sample_labels == "uniform":
            return torch.randint(0, images.num_classes, (count,), generator=generator)
        return images.labels[torch.randint(0, len(images), (count,), generator=generator)]

    def _stream(self, *name: int | str) -> torch.Generator:
        return named_generator(self._stream_root(), *name)

    def _stream_root(self) -> str | bytes:
        """What names the streams of codes and batches; a simulation's secret is one that anyone can draw."""
        secret = self._secret()
        return secret.hex() if self.seeded_secret else secret

    def _architecture(self) -> Architecture:
        channels, size, num_classes, _ = self._shape()
        return build_gan_architecture(self.config, channels, size, num_classes)

    def _optim_config(self) -> OptimConfig:
        return replace(build_optim_config(self.config), max_loss=self._max_loss())

    def _batches(self) -> Batches:
        run = () if self.seeded_secret else (self.ledger.run,)
        return Batches(self.config, self.data.train, self._secret(), self._stream_root(), self.runtime.device, run)


class GeneratorClient(GanClient):
    """A client of a GAN whose generator comes whole, to make samples with."""

    def on_evaluate(self, request: GanWorkRequest) -> EvaluateReply:
        """Make samples with the generator that came, keep them, and compare them to held-out images."""
        self._check_count(request.count)
        began = time.perf_counter()
        generator = Generator(self._architecture(), ("samples",), self._optim_config())
        generator.load_weights(request.weights)
        labels = self._labels(request.count, request.round)
        samples = generator.sample(self._codes(request.count, request.round), labels)
        # What left is weights, and gradients at images that are not its own: no noised images.
        return self._keep(samples, labels, generator.flops(), bits=0.0, began=began)


class WholeGanClient(GeneratorClient):
    """A client that has a whole GAN, trained in place; Adam's moments stay with it."""

    def _trained_gan(
        self, round_: int, count: int, weights: Weights, batches: Batches, *, mixed: bool = False
    ) -> tuple[UnsplitGan, GanTrainMetrics]:
        """Both nets after `count` batches of a round, begun from `weights` (empty: the client's own), and what it took.

        `mixed` says that there are synthetic images in the batches, which the nets' state keeps for good.

        Raises:
            PolicyError: the owner allows no round of so many batches.
        """
        began = time.perf_counter()
        self._check_steps(count)
        self._check_trained(count)
        gan, rows = self._gan(round_), self.config.gan.batch_size
        gan.load_blocks(weights)
        # Nothing of a batch leaves, so nothing need be noised.
        gan.train(replace(batches.draw(round_, step), noise=None) for step in range(count))
        mixed = mixed or self.store.load(before=round_)[0].mixed
        self.store.save(ClientState(round=round_, first_round=1, mixed=mixed), gan.state())
        flops = count * (batch_flops(gan.device, self._architecture(), rows) + rows * gan.middle_flops())
        losses, seconds = gan.device.losses, time.perf_counter() - began
        metrics = GanTrainMetrics(losses["discriminator"], losses["generator"], count, count * rows, seconds, flops)
        return gan, metrics

    def _gan(self, round_: int) -> UnsplitGan:
        """The nets as the last round before `round_` left them."""
        gan = UnsplitGan(self._architecture(), self.config.run.seed, self._optim_config())
        gan.load(self.store.load(before=round_)[1])
        return gan
