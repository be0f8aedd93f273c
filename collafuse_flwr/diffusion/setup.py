"""The diffusion process of a run: what server and clients must agree on."""

from __future__ import annotations

from collections.abc import Sequence
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
from collafuse_flwr.diffusion.sampling import StepNoise, in_parts, sample, sampling_timesteps, split_steps
from collafuse_flwr.diffusion.schedule import Schedule
from collafuse_flwr.diffusion.schedulers import Sampler
from collafuse_flwr.diffusion.settings import SamplingConfig
from collafuse_flwr.diffusion.unet import ImageShape, as_denoise, build_network

#: Pixels of the images in a network's call. On a CPU it was fastest per image at about as many of any size, 512 images
#: of 8 x 8 or 32 of 32 x 32: smaller calls cost more beside their arithmetic, larger ones leave the caches.
CALL_PIXELS = {"cpu": 2**15}
#: On another device it is memory that ends a call.
MOST_CALL_PIXELS = 2**22


@dataclass(frozen=True)
class SampleBatch:
    """Samples that are carried on together.

    Attributes:
        x: the samples, shape (batch, channels, size, size).
        labels: what they are conditioned on, as in `Denoise`.
        name: names their noise.
    """

    x: Tensor
    labels: Tensor | None
    name: tuple[int | str, ...]


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
        return self.sample_together(network, [SampleBatch(x, labels, name)], grid, guidance, show)[0]

    def sample_together(
        self, network: nn.Module, batches: Sequence[SampleBatch], grid: list[int], guidance: float = 1.0, show: str = ""
    ) -> list[Tensor]:
        """Carry several batches, all with labels or all without, down the grid in calls that they share.

        Each has the noise of its own name. In other company it comes out different in the last bits of float32.
        """
        device = self.runtime.device
        x = torch.cat([batch.x for batch in batches]).to(device)
        labels = [batch.labels for batch in batches if batch.labels is not None]
        draws = [(named_noise(batch.name, device), batch.x.shape) for batch in batches]
        denoise = in_parts(self.denoise(network.eval()), self.call_rows(x.shape[-1]))
        images = sample(
            self.schedule,
            self.objective.prediction,
            cfg_denoiser(denoise, guidance if labels else 1.0),
            x,
            grid,
            sampler=cast(Sampler, self.sampling.sampler),
            labels=torch.cat(labels).to(device) if labels else None,
            noise=lambda t, _: torch.cat([draw(t, shape) for draw, shape in draws]),
            show=show,
        )
        return list(images.cpu().split([len(batch.x) for batch in batches]))

    def call_rows(self, size: int) -> int:
        """Images of `size` pixels a side in a call of a network that samples, at most."""
        return max(1, CALL_PIXELS.get(self.runtime.device.type, MOST_CALL_PIXELS) // size**2)


def named_noise(name: tuple[int | str, ...], device: object = "cpu") -> StepNoise:
    """Sampling noise that depends on a name and the step alone, so that both halves of a chain can be replayed."""

    def draw(t: int, shape: torch.Size) -> Tensor:
        generator = named_generator(*name, "step", t, device=str(device))
        return torch.randn(shape, generator=generator, device=generator.device)

    return draw
