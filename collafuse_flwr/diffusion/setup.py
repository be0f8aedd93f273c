"""The diffusion process of a run, as its settings describe it: what server and clients must agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import Runtime, choose_runtime
from collafuse_flwr.diffusion.guidance import cfg_denoiser
from collafuse_flwr.diffusion.loss import Objective, Weighting
from collafuse_flwr.diffusion.parametrization import Denoise, Prediction
from collafuse_flwr.diffusion.sampling import Sampler, StepNoise, sample, sampling_timesteps
from collafuse_flwr.diffusion.schedule import Schedule, make_schedule
from collafuse_flwr.diffusion.unet import ImageShape, as_denoise, build_network


@dataclass(frozen=True)
class DiffusionSetup:
    """Schedule, objective, sampler and where networks run."""

    config: Config
    schedule: Schedule
    objective: Objective
    runtime: Runtime

    @classmethod
    def of(cls, config: Config) -> DiffusionSetup:
        """The process that the settings describe.

        Raises:
            SettingError: the device asked for is not there.
        """
        prediction = cast(Prediction, config.diffusion.prediction_type)
        return cls(
            config,
            make_schedule(config.diffusion.schedule, config.diffusion.timesteps),
            Objective(prediction, cast(Weighting, config.train.loss_weighting), config.train.min_snr_gamma),
            choose_runtime(config.run.device, config.run.precision),
        )

    def backbone(self, channels: int, size: int, num_classes: int, num_attributes: int = 0) -> nn.Module:
        """The server's network, freshly initialised; conditional only if labels are shared."""
        told = (num_classes, num_attributes) if self.config.upload.share_labels else (0, 0)
        shape = self._shape(channels, size, *told)
        return build_network(self.config.diffusion.model, shape, self.config.run.seed, "backbone").to(
            self.runtime.device
        )

    def denoiser(self, client: int, channels: int, size: int, num_classes: int, num_attributes: int = 0) -> nn.Module:
        """A client's network, freshly initialised."""
        preset = self.config.client.model
        model = self.config.diffusion.model if preset == "same" else preset
        shape = self._shape(channels, size, num_classes, num_attributes)
        return build_network(model, shape, self.config.run.seed, f"client {client}").to(self.runtime.device)

    def _shape(self, channels: int, size: int, num_classes: int, num_attributes: int) -> ImageShape:
        """A network's input for such images, by `data.conditioning`; one label more where some are dropped."""
        condition, null = self.config.data.conditioning, bool(self.config.train.cfg_dropout)
        classes = num_classes if condition == "classes" else 0
        attributes = num_attributes if condition == "attributes" else 0
        null = null and bool(classes or attributes)
        return ImageShape(channels, size, classes and classes + null, attributes and attributes + null, null)

    def denoise(self, network: nn.Module) -> Denoise:
        """A network as a function of (x_t, t, labels)."""
        return as_denoise(network, self.runtime)

    def client_start_step(self, cut: int) -> int:
        """The step at which a client takes over: its cut, or k (2 - c) as in the authors' code (`official`)."""
        if self.config.upload.noise == "official":
            return min(self.schedule.timesteps, round(cut * (2 - cut / self.schedule.timesteps)))
        return cut

    def server_grid(self, cut: int) -> list[int]:
        """The steps of the server's half, from T down to the cut."""
        sampling = self.config.sampling
        total = sampling.steps
        steps = sampling.server_steps or (total and max(1, total - self._client_share(cut)))
        return sampling_timesteps(self.schedule.timesteps, cut, steps)

    def client_grid(self, cut: int) -> list[int]:
        """The steps of the client's half, down to the image."""
        return sampling_timesteps(
            self.client_start_step(cut), 0, self.config.sampling.client_steps or self._client_share(cut)
        )

    def _client_share(self, cut: int) -> int:
        """The client's part of `sampling.steps`, at least one where it has a part; 0 for every step."""
        total = self.config.sampling.steps
        return max(1, round(total * cut / self.schedule.timesteps)) if total and cut else 0

    def num_function_evaluations(self, grid: list[int], told: bool) -> int:
        """Calls of a network by `sample` for the whole grid; twice as many where guidance needs both predictions."""
        return (len(grid) - 1) * (2 if told and self.config.sampling.guidance_scale != 1 else 1)

    def sample(
        self,
        network: nn.Module,
        x: Tensor,
        grid: list[int],
        labels: Tensor | None,
        name: tuple[int | str, ...],
        guidance: float = 1.0,
    ) -> Tensor:
        """Carry x, shape (batch, channels, size, size), down the grid with one network; `name` names its noise."""
        device = self.runtime.device
        return sample(
            self.schedule,
            self.objective.prediction,
            cfg_denoiser(self.denoise(network.eval()), 1.0 if labels is None else guidance),
            x.to(device),
            grid,
            sampler=cast(Sampler, self.config.sampling.sampler),
            labels=None if labels is None else labels.to(device),
            noise=named_noise(name, device),
        ).cpu()


def named_noise(name: tuple[int | str, ...], device: object = "cpu") -> StepNoise:
    """Sampling noise that depends on a name and the step alone, so that both halves of a chain can be replayed."""

    def draw(t: int, shape: torch.Size) -> Tensor:
        generator = named_generator(*name, "step", t, device=str(device))
        return torch.randn(shape, generator=generator, device=generator.device)

    return draw
