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
from collafuse_flwr.evaluation.cost import forward_flops, sampling_flops
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
    labels = handoff.labels if setup.shares_labels else None
    x = setup.sample(backbone, handoff.x_k, grid, labels, name, guidance)
    return replace(handoff, x_k=x.nan_to_num(0.0, 0.0, 0.0))


def image_flops(
    setup: DiffusionSetup, shape: tuple[int, int, int, int], cut: int, forward: int, labels: Tensor | None
) -> int:
    """Operations of a client for an image; of one that chooses, with both networks and at most.

    They are reported, and what it took would tell where the networks change. `forward` is a call of its own network,
    which is conditioned on `labels` if there are any.
    """
    conditional = labels is not None
    if not setup.chooses_handover(cut):
        return sampling_flops(forward, setup.num_function_evaluations(setup.client_grid(cut), conditional), 1)
    backbone, shares = _backbone_flops(setup, shape), conditional and setup.shares_labels
    edges = handover_edges(setup.schedule.timesteps, cut)
    return max(
        sampling_flops(backbone, setup.num_function_evaluations(above, shares), 1)
        + sampling_flops(forward, setup.num_function_evaluations(below, conditional), 1)
        for above, below in map(setup.grids, edges)
    )


def _backbone_flops(setup: DiffusionSetup, shape: tuple[int, int, int, int]) -> int:
    channels, size, _, attributes = shape
    one = torch.ones(1, dtype=torch.int64, device=setup.runtime.device)
    x = torch.zeros((1, channels, size, size), device=setup.runtime.device)
    labels = one.new_zeros((1, attributes) if attributes else 1) if setup.shares_labels else None
    return forward_flops(setup.denoise(setup.backbone(*shape).eval()), x, one, labels)
