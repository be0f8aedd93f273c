"""The attacker's own images, of the same law as the clients', and what it learns from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.conditioning import conditioning_labels
from collafuse_flwr.data.images import ImageSource, subsample_evenly
from collafuse_flwr.diffusion.parametrization import Denoise
from collafuse_flwr.diffusion.train import TrainState
from collafuse_flwr.privacy.attacks.denoiser_reconstruction import train_shadow
from collafuse_flwr.privacy.attacks.wiener import Wiener
from collafuse_flwr.runs.loaded_run import FinishedRun
from collafuse_flwr.setup.diffusion import diffusion_setup
from simulations.attack.server_view import clipped, judged

#: Shadow images, taken from all clients.
MAX_SHADOWS = 10_000


@dataclass(frozen=True, eq=False)
class ShadowAttacker:
    """The held-out images of all clients, a Wiener filter of their moments, and denoisers trained on them by step.

    `mean` is the mean image, (channels, size, size): what an attacker guesses who has received nothing.
    """

    run: FinishedRun
    images: Tensor
    mean: Tensor
    labels: Tensor | None
    wiener: Wiener
    seed: int
    trained: dict[tuple[int, str, int], Denoise] = field(default_factory=dict)

    @classmethod
    def of(cls, run: FinishedRun, seed: int) -> ShadowAttacker:
        """The attacker of a run; `seed` is that of the attack."""
        rows = torch.cat([partition.held_out for partition in run.data.partitions]).unique()
        rows, config = subsample_evenly(rows, MAX_SHADOWS), run.config
        images = clipped(run, rows)
        conditions = conditioning_labels(config.data.conditioning, run.data.images) if config.shares_labels() else None
        labels, mean = None if conditions is None else conditions[rows], judged(run, rows).mean(dim=0)
        return cls(run, images, mean, labels, Wiener.of(images), seed)

    def denoiser(self, step: int, model: str, num_steps: int) -> Denoise:
        """A preset `model` for the step t = `step`, conditioned as the backbone is; trained at the first call."""
        name = step, model, num_steps
        if name not in self.trained:
            config = self.run.config
            setup = diffusion_setup(replace(config, diffusion=replace(config.diffusion, model=model)))
            device = setup.runtime.device
            state = TrainState(setup.backbone(*self.run.client_info.shape), config.train.ema_decay)
            denoise = setup.denoise(state.network)
            labels = None if self.labels is None else self.labels.to(device)
            train_shadow(
                state,
                denoise,
                ImageSource(self.images.to(device), labels),
                setup.schedule,
                setup.objective,
                step=step,
                num_steps=num_steps,
                learning_rate=config.train.learning_rate,
                generator=named_generator(self.seed, "shadow", step, device=device),
            )
            self.trained[name] = denoise
        return self.trained[name]
