"""The yardstick: the updates of a CollaFuse run as a plain loop in one process, from tensors that lie in memory.

It has the run's networks, loss and random draws, so that with equal torch threads its weights are the app's bit for
bit; batches, Adam, clipping and the average are written out here, and there is nothing of Flower, of files or messages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.conditioning import conditioning_labels, num_attributes
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.images import normalize
from collafuse_flwr.diffusion.guidance import drop_labels
from collafuse_flwr.diffusion.loss import denoising_loss, loss_scale, stratified_steps
from collafuse_flwr.diffusion.settings import TrainConfig
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.diffusion.train import bernoulli_mask, cosine_rate, random_hflip


@dataclass(frozen=True)
class Rows:
    """What one network is trained on: x at step `start`, with labels or None, all on the device."""

    x: Tensor
    start: Tensor
    labels: Tensor | None


class Learner:
    """One network with Adam and averaged weights, trained on t = start + 1..last."""

    def __init__(
        self, train: TrainConfig, setup: DiffusionSetup, network: nn.Module, rows: Rows, last: int, batch_size: int
    ) -> None:
        self.train_config, self.setup, self.network, self.rows = train, setup, network.train(), rows
        self.last, self.batch_size = last, batch_size
        self.parameters: list[Tensor] = list(network.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        self.adam = torch.optim.Adam(self.parameters, betas=(0.9, 0.99), fused=True)
        self.steps = 0
        self.scale = loss_scale(setup.schedule, setup.objective, rows.start)

    def train(self, num_steps: int, rate: Callable[[float], float], generator: torch.Generator) -> int:
        """Take steps on shuffled batches and return the image updates made."""
        order = torch.empty(0, dtype=torch.int64, device=generator.device)
        for done in range(num_steps):
            while len(order) < self.batch_size:
                fresh = torch.randperm(len(self.rows.x), generator=generator, device=generator.device)
                order = torch.cat([order, fresh])
            self._descend(order[: self.batch_size], rate(done / num_steps), generator)
            order = order[self.batch_size :]
        return num_steps * self.batch_size

    def _descend(self, picked: Tensor, rate: float, generator: torch.Generator) -> None:
        rows, setup, config = self.rows, self.setup, self.train_config
        x, start = rows.x[picked], rows.start[picked]
        labels = None if rows.labels is None else rows.labels[picked]
        if config.random_hflip:
            x = random_hflip(x, bernoulli_mask(len(x), 0.5, generator))
        if config.cfg_dropout and labels is not None:
            labels = drop_labels(labels, bernoulli_mask(len(labels), config.cfg_dropout, generator))
        t = stratified_steps(start + 1, self.last, generator)
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        denoise = setup.denoise(self.network)
        loss = self.scale * denoising_loss(setup.schedule, setup.objective, denoise, x, start, t, noise, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adam.param_groups[0]["lr"] = rate * min(1.0, (self.steps + 1) / 20)
        self.adam.step()
        self.adam.zero_grad()
        decay = min(config.ema_decay, (1 + self.steps) / (10 + self.steps)) if self.steps else 0.0
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 1 - decay)
        self.steps += 1


class ReferenceLoop:
    """All clients' denoisers and the backbone, one after another."""

    def __init__(self, config: Config, setup: DiffusionSetup, pooled: Rows) -> None:
        """Build the networks as the app does; `pooled` is what the clients uploaded, in the pool's order."""
        cuts = config.cut_steps()
        data = federation_data(config.data, len(cuts), config.run.seed)
        conditioning = data.images.num_classes, num_attributes(config.data.conditioning, data.images)
        shape = (data.images.images.shape[1], data.images.images.shape[2], *conditioning)
        self.config, self.setup, size, train = config, setup, config.client.batch_size, config.train
        self.clients = {
            i: Learner(train, setup, setup.denoiser(i, *shape), self._images(i), cut, size)
            for i, cut in enumerate(cuts)
        }
        last, batch_size = setup.schedule.timesteps, config.server.batch_size
        self.backbone = Learner(train, setup, setup.backbone(*shape), pooled, last, batch_size)

    def round(self, number: int, client_steps: dict[int, int], backbone_steps: int) -> int:
        """Repeat one round of the app, and return the image updates made."""
        seed, device, updates = self.config.run.seed, self.setup.runtime.device, 0
        for i, steps in client_steps.items():
            generator = named_generator(seed, "client", i, "round", number, device=device)
            updates += self.clients[i].train(steps, self._rate(number), generator)
        generator = named_generator(seed, "backbone", "round", number, device=device)
        updates += self.backbone.train(backbone_steps, self._rate(number), generator)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return updates

    def _rate(self, number: int) -> Callable[[float], float]:
        config = self.config
        if config.train.lr_schedule == "constant":
            return lambda _: config.train.learning_rate
        return lambda done: cosine_rate(config.train.learning_rate, (number - 1 + done) / config.run.num_rounds)

    def _images(self, client: int) -> Rows:
        config, device = self.config, self.setup.runtime.device
        images = federation_data(config.data, config.run.num_supernodes, config.run.seed).client(client).train
        labels = conditioning_labels(config.data.conditioning, images)
        start = torch.zeros(len(images), dtype=torch.int64, device=device)
        return Rows(normalize(images.images).to(device), start, None if labels is None else labels.to(device))
