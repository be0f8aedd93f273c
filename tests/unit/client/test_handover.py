"""A client that chooses where it takes over, with networks that are good on known steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn

from collafuse_flwr.client.handover import carry_to, choose_handover, image_flops, received_backbone
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError, UploadError
from collafuse_flwr.data.images import ImageSource
from collafuse_flwr.diffusion.handover import handover_edges
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.evaluation.cost import forward_flops
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.wire.collafuse import SampleHandoff
from tests.small_runs import dotted

SHAPE = (1, 8, 3, 0)
CUT = 12
BEST: dict[str, Any] = {"device": "cpu", "diffusion.timesteps": 20, "sampling.handover": "best", "model": "nano"}
IMAGES = ImageSource(torch.randn((30, 1, 8, 8), generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3)


def setup(**given: Any) -> DiffusionSetup:
    return diffusion_setup(Config.from_flat(BEST | dotted(given)))


class GoodOn(nn.Module):
    """Predicts v = 0, ideal for standard normal images, for steps in low + 1 .. high, and nonsense elsewhere."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.labelled: list[bool] = []

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.labelled.append(class_labels is not None)
        # Networks count steps from 0.
        good = (t + 1 > self.low) & (t + 1 <= self.high)
        return torch.where(good.view(-1, 1, 1, 1), torch.zeros_like(x), 9 * x + 5)


@pytest.mark.parametrize(
    ("own", "backbone", "chosen"),
    [
        ((0, CUT), (CUT, 20), CUT),
        # It has learnt nothing above its cut, but the backbone knows steps below it.
        ((0, 4), (4, 20), 4),
        ((0, 18), (18, 20), 18),
        ((0, 20), (20, 20), 20),
        ((0, 0), (0, 20), 0),
    ],
)
def test_the_networks_change_where_both_are_best(own: tuple[int, int], backbone: tuple[int, int], chosen: int) -> None:
    assert choose_handover(setup(), CUT, GoodOn(*own), GoodOn(*backbone), IMAGES, 0) == chosen


def test_a_backbone_without_labels_is_given_none() -> None:
    own, backbone = GoodOn(0, CUT), GoodOn(CUT, 20)
    choose_handover(setup(upload__share_labels=False), CUT, own, backbone, IMAGES, 0)
    assert all(own.labelled)
    assert not any(backbone.labelled)


@pytest.mark.parametrize("steps", [0, 5, 7])
@pytest.mark.parametrize("model", ["same", "tiny"])
def test_what_is_reported_of_the_cost_does_not_tell_where(steps: int, model: str) -> None:
    """It is as much as any choice may take, of networks that may differ in size."""
    made = setup(sampling__steps=steps, sampling__guidance_scale=2.0, train__cfg_dropout=0.1, client__model=model)
    calls = {
        step: [made.num_function_evaluations(grid, conditional=True) for grid in made.grids(step)]
        for step in handover_edges(20, CUT)
    }
    backbone = _flops(made.backbone(*SHAPE), made)
    own = _flops(made.denoiser(0, *SHAPE), made)
    assert (own > backbone) == (model == "tiny")
    said = image_flops(made, SHAPE, CUT, own, IMAGES.labels)
    assert said == max(above * backbone + below * own for above, below in calls.values())
    fixed = setup(sampling__handover="fixed")
    assert image_flops(fixed, SHAPE, CUT, own, None) == CUT * own


def _flops(network: nn.Module, made: DiffusionSetup) -> int:
    one = torch.ones(1, dtype=torch.int64)
    return forward_flops(made.denoise(network.eval()), torch.zeros(1, 1, 8, 8), one, one - 1)


def test_the_backbone_carries_noise_to_where_the_client_takes_over() -> None:
    made, backbone = setup(sampling__sampler="ddim", sampling__steps=0), GoodOn(0, 20)
    x = torch.randn((2, 1, 8, 8))
    handoff = SampleHandoff(round=1, x_k=x, labels=None)
    assert torch.equal(carry_to(made, 20, backbone, handoff, (0,), 1.0).x_k, x)
    carried = carry_to(made, 15, backbone, handoff, (0,), 1.0)
    assert torch.equal(carried.x_k, made.sample(backbone, x, list(range(20, 14, -1)), None, (0,)))


def test_the_backbone_that_comes_is_loaded() -> None:
    made = setup()
    sent = made.backbone(*SHAPE).state_dict()
    sent = {name: value + 0.5 for name, value in sent.items()}
    handoff = SampleHandoff(round=1, x_k=torch.zeros(1, 1, 8, 8), backbone=ArrayRecord(sent))
    network = received_backbone(made, SHAPE, CUT, handoff)
    assert network is not None
    assert all(torch.equal(value, sent[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("given", "backbone", "reason"),
    [
        ({}, None, "`backbone` lacks"),
        ({}, {"conv_in.weight": torch.zeros(1)}, "`backbone` lacks"),
        ({"sampling.handover": "fixed"}, {"conv_in.weight": torch.zeros(1)}, "only when `sampling.handover` is best"),
    ],
)
def test_what_else_comes_is_refused(given: dict[str, Any], backbone: dict[str, Tensor] | None, reason: str) -> None:
    arrays = None if backbone is None else ArrayRecord(backbone)
    handoff = SampleHandoff(round=1, x_k=torch.zeros(1, 1, 8, 8), backbone=arrays)
    with pytest.raises(UploadError, match=reason):
        received_backbone(setup(**given), SHAPE, CUT, handoff)


@pytest.mark.parametrize("bad", [float("nan"), 1e30])
def test_so_are_weights_that_are_no_numbers_to_go_on_with(bad: float) -> None:
    made = setup()
    sent = made.backbone(*SHAPE).state_dict()
    sent["conv_in.weight"] = torch.full_like(sent["conv_in.weight"], bad)
    handoff = SampleHandoff(round=1, x_k=torch.zeros(1, 1, 8, 8), backbone=ArrayRecord(sent))
    with pytest.raises(UploadError, match=r"^`backbone.conv_in.weight` must be finite"):
        received_backbone(made, SHAPE, CUT, handoff)


@pytest.mark.parametrize("cut", [0, 20])
def test_where_one_network_has_the_whole_chain_there_is_nothing_to_choose(cut: int) -> None:
    made = setup()
    assert not made.chooses_handover(cut)
    handoff = SampleHandoff(round=1, x_k=torch.zeros(1, 1, 8, 8))
    assert received_backbone(made, SHAPE, cut, handoff) is None
    assert made.server_grid(cut)[-1] == cut


def test_the_authors_uploads_leave_no_choice() -> None:
    with pytest.raises(SettingError, match=r"^`sampling.handover` = 'best' is not allowed: fixed when"):
        setup(upload__noise="official")
