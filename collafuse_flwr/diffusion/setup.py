"""The diffusion process of a run: what server and clients must agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import Runtime
from collafuse_flwr.diffusion.guidance import cfg_denoiser
from collafuse_flwr.diffusion.loss import Objective
from collafuse_flwr.diffusion.parametrization import Denoise
from collafuse_flwr.diffusion.partial_sharing import freeze_other_parts
from collafuse_flwr.diffusion.sampling import StepNoise, sample, sampling_timesteps, split_steps
from collafuse_flwr.diffusion.schedule import Schedule
from collafuse_flwr.diffusion.schedulers import Sampler
from collafuse_flwr.diffusion.settings import SamplingConfig
from collafuse_flwr.diffusion.unet import ImageShape, as_denoise, build_network


@dataclass(frozen=True)
class DiffusionSetup:
    """Schedule, objective, sampler, networks and where they run.

    Attributes:
        schedule: alpha_bar_t for t = 0..T.
        objective: what networks predict, and how its error is weighed.
        sampling: sampler, steps and guidance.
        runtime: device and arithmetic.
        seed: that of the run.
        backbone_model: preset of the server's network, or package.module:factory.
        client_model: the same of the clients' networks.
        trained_parts: parts of the clients' networks that are trained.
        conditioning: classes, attributes or none.
        null_label: whether labels are dropped in training, which takes one label more.
        shares_labels: whether the backbone is conditioned as the clients' networks are.
        official_start: whether clients start at k (2 - c), as the authors' code does, and not at k.
    """

    schedule: Schedule
    objective: Objective
    sampling: SamplingConfig
    runtime: Runtime
    seed: int
    backbone_model: str
    client_model: str
    trained_parts: str
    conditioning: str
    null_label: bool
    shares_labels: bool
    official_start: bool

    def backbone(self, channels: int, size: int, num_classes: int, num_attributes: int = 0) -> nn.Module:
        """The server's network, freshly initialised; conditional only if labels are shared."""
        labels = (num_classes, num_attributes) if self.shares_labels else (0, 0)
        shape = self._shape(channels, size, *labels)
        return build_network(self.backbone_model, shape, self.seed, "backbone").to(self.runtime.device)

    def denoiser(self, client: int, channels: int, size: int, num_classes: int, num_attributes: int = 0) -> nn.Module:
        """A client's network, freshly initialised.

        Raises:
            SettingError: it has none of the parts that are to be trained.
        """
        shape = self._shape(channels, size, num_classes, num_attributes)
        network = build_network(self.client_model, shape, self.seed, f"client {client}").to(self.runtime.device)
        return network if self.trained_parts == "all" else freeze_other_parts(network, self.trained_parts)

    def _shape(self, channels: int, size: int, num_classes: int, num_attributes: int) -> ImageShape:
        """A network's input for such images, by `data.conditioning`; one label more where some are dropped."""
        classes = num_classes if self.conditioning == "classes" else 0
        attributes = num_attributes if self.conditioning == "attributes" else 0
        null = self.null_label and bool(classes or attributes)
        return ImageShape(channels, size, classes and classes + null, attributes and attributes + null, null)

    def denoise(self, network: nn.Module) -> Denoise:
        """A network as a function of (x_t, t, labels)."""
        return as_denoise(network, self.runtime)

    def chooses_handover(self, cut: int) -> bool:
        """Whether a client chooses where it takes over: it makes all steps, with both networks."""
        return self.sampling.handover == "best" and 0 < cut < self.schedule.timesteps

    def handover_step(self, cut: int) -> int:
        """The step of samples that are handed over: the cut, or above it for a client that can begin earlier."""
        if self.chooses_handover(cut):
            return self.schedule.timesteps
        return max(cut, round(self.sampling.handover_ratio * self.schedule.timesteps)) if cut else 0

    def client_start_step(self, cut: int) -> int:
        """The step at which a client takes over: as handed over, or k (2 - c) as in the authors' code (`official`)."""
        if self.official_start:
            return min(self.schedule.timesteps, round(cut * (2 - cut / self.schedule.timesteps)))
        return self.handover_step(cut)

    def server_grid(self, cut: int) -> list[int]:
        """The steps of the server's half, from T down to the hand-over."""
        return self.grids(self.handover_step(cut))[0]

    def client_grid(self, cut: int, chosen: int | None = None) -> list[int]:
        """The steps of the client's half, down to the image; from the step that it has `chosen`, if it has."""
        if chosen is not None and self.chooses_handover(cut):
            return self.grids(chosen)[1]
        steps = self.sampling.client_steps or self._share(self.handover_step(cut))[1]
        return sampling_timesteps(self.client_start_step(cut), 0, steps)

    def grids(self, handover: int) -> tuple[list[int], list[int]]:
        """The steps from T down to a hand-over, and from there to the image."""
        (above, below), own = self._share(handover), self.sampling
        return (
            sampling_timesteps(self.schedule.timesteps, handover, own.server_steps or above),
            sampling_timesteps(handover, 0, own.client_steps or below),
        )

    def _share(self, handover: int) -> tuple[int, int]:
        """The server's and the client's part of `sampling.steps`."""
        return split_steps(self.schedule.timesteps, handover, self.sampling.steps)

    def num_function_evaluations(self, grid: list[int], conditional: bool) -> int:
        """How often a network is called to carry images down the grid, if it is `conditional` on labels or not."""
        return (len(grid) - 1) * (2 if conditional and self.sampling.guidance_scale != 1 else 1)

    def sample(
        self,
        network: nn.Module,
        x: Tensor,
        grid: list[int],
        labels: Tensor | None,
        name: tuple[int | str, ...],
        guidance: float = 1.0,
        show: str = "",
    ) -> Tensor:
        """Carry x, shape (batch, channels, size, size), down the grid with one network; `name` names its noise.

        Its progress is shown as that of `show`, if that is not empty.
        """
        device = self.runtime.device
        return sample(
            self.schedule,
            self.objective.prediction,
            cfg_denoiser(self.denoise(network.eval()), 1.0 if labels is None else guidance),
            x.to(device),
            grid,
            sampler=cast(Sampler, self.sampling.sampler),
            labels=None if labels is None else labels.to(device),
            noise=named_noise(name, device),
            show=show,
        ).cpu()


def named_noise(name: tuple[int | str, ...], device: object = "cpu") -> StepNoise:
    """Sampling noise that depends on a name and the step alone, so that both halves of a chain can be replayed."""

    def draw(t: int, shape: torch.Size) -> Tensor:
        generator = named_generator(*name, "step", t, device=str(device))
        return torch.randn(shape, generator=generator, device=generator.device)

    return draw
