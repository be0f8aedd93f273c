"""A client that chooses where it takes over: it has the backbone's weights, and makes every step itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.images import ImageSource, subsample_evenly
from collafuse_flwr.diffusion.handover import best_handover, handover_edges, stretch_losses
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.wire.collafuse import SampleHandoff
from collafuse_flwr.wire.validation import check_weights

H = TypeVar("H", bound=SampleHandoff)

#: Draws of (image, t, noise) that losses are measured on, in each stretch.
MEASURED = 256


def received_backbone(
    setup: DiffusionSetup, shape: tuple[int, int, int, int], cut: int, handoff: SampleHandoff
) -> nn.Module | None:
    """The backbone whose weights came; None for a client that does not choose where it takes over.

    Raises:
        UploadError: weights are not those of the backbone, or came, or did not, against the settings.
    """
    if not setup.chooses_handover(cut):
        if handoff.backbone is not None:
            raise UploadError("`backbone` comes with samples only when `sampling.handover` is best")
        return None
    network = setup.backbone(*shape)
    weights = {} if handoff.backbone is None else dict(handoff.backbone.to_torch_state_dict())
    check_weights("backbone", weights, {name: value.cpu() for name, value in network.state_dict().items()})
    network.load_state_dict(weights)
    return network.eval()


def choose_handover(
    setup: DiffusionSetup, cut: int, own: nn.Module, backbone: nn.Module, source: ImageSource, seed: int | bytes
) -> int:
    """The step at which a client takes over, by the losses of both networks on its held-out images.

    Nothing of it leaves the client. `seed` draws the same steps and noise for both.
    """
    device, edges = setup.runtime.device, handover_edges(setup.schedule.timesteps, cut)
    rows = subsample_evenly(torch.arange(len(source)), MEASURED).repeat(max(1, MEASURED // len(source)))
    x, _, labels = source.batch(rows.to(device))

    def losses(network: nn.Module, condition: Tensor | None) -> list[float]:
        denoise, generator = setup.denoise(network.eval()), named_generator(seed, device=device)
        return stretch_losses(setup.schedule, setup.objective, denoise, x, condition, edges, generator)

    return best_handover(edges, losses(backbone, labels if setup.shares_labels else None), losses(own, labels))


def carry_to(
    setup: DiffusionSetup, step: int, backbone: nn.Module, handoff: H, name: tuple[int | str, ...], guidance: float
) -> H:
    """The samples at the step where the client takes over, from noise at T, by the backbone."""
    grid, _ = setup.grids(step)
    return replace(handoff, x_k=setup.sample(backbone, handoff.x_k, grid, handoff.labels, name, guidance))


def calls_per_image(setup: DiffusionSetup, cut: int, *, conditional: bool) -> int:
    """Calls of a client's network for an image; of a client that chooses, of both networks and at most.

    It is reported, and what it took would tell where the networks change.
    """
    if not setup.chooses_handover(cut):
        return setup.num_function_evaluations(setup.client_grid(cut), conditional)
    edges = handover_edges(setup.schedule.timesteps, cut)
    return max(sum(setup.num_function_evaluations(grid, conditional) for grid in setup.grids(s)) for s in edges)
