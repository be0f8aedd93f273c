"""A client's part in a round of the split GAN, whoever carries the tensors."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import UserError
from collafuse_flwr.core.rng import keyed_generator, named_generator
from collafuse_flwr.data.images import ImageSet, normalize
from collafuse_flwr.evaluation.cost import forward_flops
from collafuse_flwr.gan.networks import LATENT, NETS, Architecture, Cuts
from collafuse_flwr.gan.split_gan.augmentation import augment
from collafuse_flwr.gan.split_gan.client_half import Batch, ClientHalf
from collafuse_flwr.gan.split_gan.ops import PASSES, PHASES, OptimConfig, Tensors
from collafuse_flwr.wire.split_gan import EndRoundReply, GanTrainMetrics


@dataclass(frozen=True)
class Batches:
    """The batches of a client: every image once before any comes again, in an order that only the client knows.

    What is drawn hangs on the client's secret, for a server that knew the codes z could tell the labels. `root` names
    its streams, `run` the run of a deployed client: in each, the noise on activations is another.
    """

    config: Config
    images: ImageSet
    secret: bytes
    root: str | bytes
    device: torch.device
    run: tuple[str, ...] = ()

    def draw(self, round_: int, step: int) -> Batch:
        """Batch `step`, from 0, of a round."""
        size, count = self.config.gan.batch_size, len(self.images)
        places = range(step * size, (step + 1) * size)
        orders = {
            epoch: torch.randperm(count, generator=self._stream("order", round_, epoch))
            for epoch in {place // count for place in places}
        }
        rows = torch.stack([orders[place // count][place % count] for place in places])
        z = torch.randn((size, LATENT), generator=self._stream("codes", round_, step))
        x, split = normalize(self.images.images[rows]), self.config.split_gan

        def augmented(name: str, images: Tensor) -> Tensor:
            return augment(images, split.augmentation, self._stream("augmentation", round_, step, name))

        def random_labels(name: str) -> Tensor:
            stream = self._stream("shown labels", round_, step, name)
            return torch.randint(0, self.images.num_classes, (size,), generator=stream).to(self.device)

        return Batch(
            x.to(self.device),
            self.images.labels[rows].to(self.device),
            z.to(self.device),
            noise=self._noise(round_, step) if split.activation_noise else None,
            drawn=self._drawn_labels(round_, step) if split.fake_labels == "drawn" else None,
            augment=augmented if split.augmentation != "none" else None,
            shown_labels=random_labels if split.condition_at == "tail" else None,
        )

    def _noise(self, round_: int, step: int) -> Callable[[str, Tensor], Tensor]:
        """Noise on activations, by their name and values."""
        std = self.config.split_gan.activation_noise

        def noise(name: str, activations: Tensor) -> Tensor:
            # Keyed by what it is added to: with the noise of a batch's place alone, a batch that is sent again through
            # other weights, which leave nothing of the images, would be that noise, to be subtracted. And by the run:
            # else equal answers in two of them would say for certain that two heads make the same of the images.
            content = activations.float().cpu().contiguous().numpy().tobytes()
            numbers = keyed_generator(self.secret, repr(("noise", *self.run, round_, step, name)).encode() + content)
            shape = tuple(activations.shape)
            return std * torch.from_numpy(numbers.standard_normal(shape, np.float32)).to(self.device)

        return noise

    def _drawn_labels(self, round_: int, step: int) -> Tensor:
        """Labels of fake images, each that of any training image: of those in the batch they say nothing."""
        size, stream = self.config.gan.batch_size, self._stream("fake labels", round_, step)
        rows = torch.randint(0, len(self.images), (size,), generator=stream)
        return self.images.labels[rows].to(self.device)

    def _stream(self, *name: int | str) -> torch.Generator:
        return named_generator(self.root, *name)


@dataclass
class PhaseCursor:
    """How far a client is in a round, and what it came to so far: its last batch's losses, and seconds in all."""

    round: int
    step: int = -1
    phase: str = "generator"
    losses: dict[str, float] = field(default_factory=lambda: {"discriminator": 0.0, "generator": 0.0})
    seconds: float = 0.0

    def next(self, step: int, phase: str) -> None:
        """Move on to a phase.

        Raises:
            UserError: another one is due.
        """
        batch, due = self.due
        if (step, phase) != (batch, due):
            raise UserError(f"batch {step}, phase {phase} was requested; due is batch {batch}, phase {due}")
        self.step, self.phase = step, phase

    def end(self) -> None:
        """Come to the end of the round, at that of a batch.

        Raises:
            UserError: its phases are not all done.
        """
        step, phase = self.due
        if phase != next(iter(PHASES)):
            raise UserError(f"the end of round {self.round} was requested; due is batch {step}, phase {phase}")

    @property
    def due(self) -> tuple[int, str]:
        """The batch and phase that come next."""
        names = list(PHASES)
        phase = names[(names.index(self.phase) + 1) % len(names)]
        return self.step + (phase == names[0]), phase


@dataclass
class Session:
    """One client in one round: its half of the nets, its batches, and how far it is."""

    half: ClientHalf
    batches: Batches
    progress: PhaseCursor
    architecture: Architecture
    cuts: Cuts

    @classmethod
    def open(
        cls,
        config: Config,
        architecture: Architecture,
        cuts: Cuts,
        client: int,
        optim_config: OptimConfig,
        batches: Batches,
    ) -> Session:
        """A session with freshly initialised nets; all clients' begin alike if `split_gan.init` is common."""
        owner = client if config.split_gan.init == "independent" else 0
        name = (config.run.seed, "gan", owner)
        half = ClientHalf(architecture, cuts, name, optim_config, config.split_gan.factor_tail_gradients)
        return cls(half, batches, PhaseCursor(0), architecture, cuts)

    def answer(self, step: int, phase: str, received: Tensors) -> Tensors:
        """Answer a phase of a batch.

        Raises:
            UserError: it is not the one that is due.
        """
        began = time.perf_counter()
        self.progress.next(step, phase)
        received = {name: x.to(self.half.runtime.device) for name, x in received.items()}
        if phase == "latent":
            self._close(received)
            sent = self.half.begin(self.batches.draw(self.progress.round, step))
        else:
            sent = self.half.answer(phase, received)
        self.progress.losses = dict(self.half.losses)
        self.progress.seconds += time.perf_counter() - began
        return sent

    def close(self, received: Tensors) -> EndRoundReply:
        """End the round with the last gradient that is due; numbers, and the client's blocks.

        Raises:
            UserError: a batch is not at its end.
        """
        began = time.perf_counter()
        self.progress.end()
        self._close({name: x.to(self.half.runtime.device) for name, x in received.items()})
        steps, rows = self.progress.step + 1, self.batches.config.gan.batch_size
        flops = steps * batch_flops(self.half, self.architecture, rows)
        seconds = self.progress.seconds + time.perf_counter() - began
        losses = self.progress.losses
        metrics = GanTrainMetrics(losses["discriminator"], losses["generator"], steps, steps * rows, seconds, flops)
        return EndRoundReply(metrics, {name: value.cpu() for name, value in self.half.blocks().items()})

    def _close(self, received: Tensors) -> None:
        if "grad_gh" in received:
            self.half.close(received["grad_gh"])

    def remember(self) -> dict[str, Any]:
        """How far this session is, in plain values."""
        return asdict(self.progress) | {"cuts": str(self.cuts)}


def batch_flops(half: ClientHalf, architecture: Architecture, rows: int) -> int:
    """Operations of a client in a batch; what it computes again after another process took over is left out."""
    device = half.runtime.device
    labels = torch.zeros(2, dtype=torch.int64, device=device)
    shapes = {net: architecture.shapes(net) for net in NETS}
    total = 0
    for name, part in half.parts.items():
        net = next(net for net in NETS if net[0] == name[0])
        first = part.indices[0]
        inputs = {"g_head": (LATENT,), "d_head": (architecture.channels, architecture.size, architecture.size)}
        shape = inputs.get(name) or tuple(shapes[net][first - 1])
        x = torch.zeros((2, *shape), device=device)
        part.eval()
        total += PASSES[net] * forward_flops(part, x, labels) * rows // 2
        part.train()
    return total
