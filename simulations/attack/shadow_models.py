"""The attacker's own images, of the same law as the clients', and what it learns from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.conditioning import conditioning_labels
from collafuse_flwr.data.images import ImageSource, subsample_evenly
from collafuse_flwr.diffusion.parametrization import Denoise
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.diffusion.train import TrainState
from collafuse_flwr.privacy.attacks.denoiser_reconstruction import train_shadow
from collafuse_flwr.privacy.attacks.wiener import Wiener
from collafuse_flwr.runs.loaded_run import FinishedRun
from collafuse_flwr.setup.diffusion import diffusion_setup
from simulations.attack.server_view import clipped

#: Shadow images, taken from all clients.
MAX_SHADOWS = 10_000


@dataclass(frozen=True, eq=False)
class ShadowAttacker:
    """The held-out images of all clients, a Wiener filter of their moments, and denoisers trained on them by step."""

    run: FinishedRun
    setup: DiffusionSetup
    images: Tensor
    labels: Tensor | None
    wiener: Wiener
    num_steps: int
    seed: int
    trained: dict[int, Denoise] = field(default_factory=dict)

    @classmethod
    def of(cls, run: FinishedRun, model: str, num_steps: int, seed: int) -> ShadowAttacker:
        """An attacker with a denoiser of a preset `model`, trained for so many optimiser steps."""
        rows = torch.cat([partition.held_out for partition in run.data.partitions]).unique()
        rows, config = subsample_evenly(rows, MAX_SHADOWS), run.config
        images = clipped(run, rows)
        known = conditioning_labels(config.data.conditioning, run.data.images) if config.shares_labels() else None
        setup = diffusion_setup(replace(config, diffusion=replace(config.diffusion, model=model)))
        labels = None if known is None else known[rows]
        return cls(run, setup, images, labels, Wiener.of(images), num_steps, seed)

    def denoiser(self, step: int) -> Denoise:
        """A denoiser of the step t = `step`, told what the backbone is told; trained at the first call."""
        if step not in self.trained:
            device, config = self.setup.runtime.device, self.run.config
            client_info = self.run.client_info
            shape = client_info.channels, client_info.size, client_info.num_classes, client_info.num_attributes
            state = TrainState(self.setup.backbone(*shape), config.train.ema_decay)
            denoise = self.setup.denoise(state.network)
            labels = None if self.labels is None else self.labels.to(device)
            train_shadow(
                state,
                denoise,
                ImageSource(self.images.to(device), labels),
                self.setup.schedule,
                self.setup.objective,
                step=step,
                num_steps=self.num_steps,
                learning_rate=config.train.learning_rate,
                generator=named_generator(self.seed, "shadow", step, device=device),
            )
            self.trained[step] = denoise
        return self.trained[step]
