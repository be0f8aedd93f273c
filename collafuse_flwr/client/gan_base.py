"""What the clients of all GANs do alike: their batches, and samples with the labels of their own choice."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from flwr.app import RecordDict
from torch import Tensor

from collafuse_flwr.client.collafuse import CollaFuseClient
from collafuse_flwr.client.split_session import Batches
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.gan.build import build_gan_architecture, build_optim_config
from collafuse_flwr.gan.mdgan import Generator
from collafuse_flwr.gan.networks import LATENT, Architecture
from collafuse_flwr.wire.codec import pack_numbers
from collafuse_flwr.wire.collafuse import EvaluateReply
from collafuse_flwr.wire.gan import unpack_gan_work_request


@dataclass(frozen=True)
class GanClient(CollaFuseClient):
    """A client of a GAN for the length of one message."""

    def on_evaluate(self, content: RecordDict) -> RecordDict:
        """Make samples with the generator that came, keep them, and compare them to held-out images."""
        request, began = unpack_gan_work_request(content), time.perf_counter()
        generator = Generator(self._architecture(), ("samples",), build_optim_config(self.setup.config))
        generator.load_weights(request.weights)
        labels = self._labels(request.count, request.round)
        samples = generator.sample(self._codes(request.count, request.round), labels)
        # What left is weights, and gradients at images that are not its own: no noised images.
        return self._measured(samples, labels, generator.flops(), bits=0.0, began=began)

    def _measured(self, samples: Tensor, labels: Tensor, flops: int, *, bits: float, began: float) -> RecordDict:
        """Keep samples, and an EvaluateReply about them; `flops` is what one of them cost, `began` the time."""
        self.store.save_samples(samples, labels)
        reply = EvaluateReply(
            num_samples=len(samples),
            held_out_loss=0.0,
            kernel_distance=self._distance(samples),
            seconds=time.perf_counter() - began,
            flops_per_image=flops,
            releases=0,
            bits=bits,
            dp_steps=0,
        )
        return pack_numbers(reply)

    def _codes(self, count: int, round_: int) -> Tensor:
        """Latent codes of samples, (count, 100)."""
        return torch.randn((count, LATENT), generator=self._stream("sample codes", round_))

    def _labels(self, count: int, round_: int) -> Tensor:
        """Classes of samples: as often as among the client's own training images, or all alike."""
        generator, images = self._stream("sample labels", round_), self.data.train
        if self.setup.config.gan.gan_labels == "uniform":
            return torch.randint(0, images.num_classes, (count,), generator=generator)
        return images.labels[torch.randint(0, len(images), (count,), generator=generator)]

    def _stream(self, *name: int | str) -> torch.Generator:
        return named_generator(self._secret().hex(), *name)

    def _architecture(self) -> Architecture:
        images = self.data.train
        _, channels, size, _ = images.images.shape
        return build_gan_architecture(self.setup.config, channels, size, images.num_classes)

    def _batches(self) -> Batches:
        return Batches(self.setup.config, self.data.train, self._secret(), self.setup.runtime.device)
