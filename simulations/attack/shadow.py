"""The attacker's own images, of the same law as the clients', and what it learns from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from collafuse_flwr.data import ImageSource, evenly, labels_of
from collafuse_flwr.diffusion import Denoise, TrainState
from collafuse_flwr.privacy.attacks import Wiener, train_shadow
from collafuse_flwr.process import Process
from collafuse_flwr.rng import stream
from simulations.attack.received import clipped
from simulations.finished import Finished

#: Shadow images, taken from all clients.
MAX_SHADOWS = 10_000


@dataclass(frozen=True, eq=False)
class Shadow:
    """The held-out images of all clients, a Wiener filter of their moments, and denoisers trained on them by step."""

    run: Finished
    process: Process
    images: Tensor
    labels: Tensor | None
    wiener: Wiener
    num_steps: int
    seed: int
    trained: dict[int, Denoise] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Finished, model: str, num_steps: int, seed: int) -> Shadow:
        """An attacker with a denoiser of a preset `model`, trained for so many optimiser steps."""
        rows = torch.cat([partition.held_out for partition in run.data.partitions]).unique()
        rows, config = evenly(rows, MAX_SHADOWS), run.process.config
        images = clipped(run, rows)
        known = labels_of(config, run.data.images) if config.shares_labels() else None
        process = Process.of(replace(config, model=replace(config.model, model=model)))
        labels = None if known is None else known[rows]
        return cls(run, process, images, labels, Wiener.of(images), num_steps, seed)

    def denoiser(self, step: int) -> Denoise:
        """A denoiser of the step t = `step`, told what the backbone is told; trained at the first call."""
        if step not in self.trained:
            device, config = self.process.runtime.device, self.process.config
            hello = self.run.hello
            shape = hello.channels, hello.size, hello.num_classes, hello.num_attributes
            state = TrainState(self.process.backbone(*shape), config.train.ema_decay)
            denoise = self.process.denoise(state.network)
            labels = None if self.labels is None else self.labels.to(device)
            train_shadow(
                state,
                denoise,
                ImageSource(self.images.to(device), labels),
                self.process.schedule,
                self.process.objective,
                step=step,
                num_steps=self.num_steps,
                learning_rate=config.train.learning_rate,
                generator=stream(self.seed, "shadow", step, device=device),
            )
            self.trained[step] = denoise
        return self.trained[step]
