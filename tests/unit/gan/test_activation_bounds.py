"""What heads can make at most: honest ones stay within it whatever their images and weights, and reach it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.core.runtime import choose_runtime
from collafuse_flwr.gan.networks import Cuts, build_architecture
from collafuse_flwr.gan.split_gan.activation_bounds import FACTOR, HeadBounds, capped, last_normalisation
from collafuse_flwr.gan.split_gan.client_half import Batch, ClientHalf
from collafuse_flwr.gan.split_gan.ops import OptimConfig

ARCHITECTURE = build_architecture(1, 8, 3, width=2)
CONFIG, NAME = OptimConfig(choose_runtime("cpu", "float32")), ("test",)


def batch(scale: float, **own: Any) -> Batch:
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(8, 1, 8, 8)
    # One image that is nothing like the others drives batch normalisation furthest.
    x[0] = scale * torch.randn(1, 8, 8, generator=generator)
    return Batch(x, torch.arange(8) % 3, torch.randn(8, 100, generator=generator), **own)


@pytest.mark.parametrize("cuts", ["0000", "1010"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
def test_no_images_pass_the_bound(cuts: str, scale: float) -> None:
    half = ClientHalf(ARCHITECTURE, Cuts.parse(cuts), NAME, CONFIG)
    bounds = HeadBounds(ARCHITECTURE, Cuts.parse(cuts), NAME, CONFIG)
    bounds.begin({}, 0)
    sent = half.begin(batch(scale))
    gt = torch.randn(8, *ARCHITECTURE.shapes("generator")[-2])
    sent |= half.answer("fake", {"gt": gt})
    assert sent.keys() == {"gh", "dh_fake", "dh_real"}
    bounds.check(sent, 0)


@pytest.mark.parametrize("what", ["gh", "dh_fake", "dh_real", "dh"])
def test_a_little_more_than_a_head_can_make_is_refused(what: str) -> None:
    """Up to 10^4 was believed, which made the batch statistics of all clients' rows."""
    bounds = HeadBounds(ARCHITECTURE, Cuts(), NAME, CONFIG)
    bounds.begin({}, 0)
    shape = ARCHITECTURE.shapes("generator" if what == "gh" else "discriminator")[0]
    signs = torch.randint(0, 2, (8, *shape)) * 2.0 - 1
    bounds.check({what: signs}, 0)
    with pytest.raises(UploadError, match=rf"`activations.{what}` is 1.4[0-9]* times what its network can make"):
        bounds.check({what: signs * 1.5}, 0)
    with pytest.raises(UploadError, match="nan times"):
        bounds.check({what: signs * float("nan")}, 0)


def test_the_bound_is_that_of_the_weights_that_a_round_began_with() -> None:
    bounds = HeadBounds(ARCHITECTURE, Cuts(), NAME, CONFIG)
    weights = ClientHalf(ARCHITECTURE, Cuts(), NAME, CONFIG).blocks()
    weights["discriminator.0.down.1.weight"] = torch.tensor([0.5, 2.0])
    weights["discriminator.0.down.1.bias"] = torch.tensor([-0.5, 0.0])
    bounds.begin(weights, 5)
    x = torch.ones(8, 2, 4, 4)
    bounds.check({"dh_real": x * torch.tensor([1.0, 2.0])[:, None, None]}, 0)
    with pytest.raises(UploadError):
        bounds.check({"dh_real": x * torch.tensor([1.1, 1.1])[:, None, None]}, 0)


def test_without_weights_all_steps_so_far_may_have_moved_it() -> None:
    bounds = HeadBounds(ARCHITECTURE, Cuts(), NAME, CONFIG)
    moved = {"dh": torch.full((8, 2, 4, 4), 1.5)}
    bounds.begin({}, 100)
    bounds.check(moved, 0)
    bounds.begin({}, 0)
    with pytest.raises(UploadError):
        bounds.check(moved, 0)


@pytest.mark.parametrize("noise", [0.1, 4.0])
def test_noised_rows_have_a_bound_of_their_own(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(_: str, x: Tensor) -> Tensor:
        return noise * torch.randn(x.shape, generator=generator)

    half = ClientHalf(ARCHITECTURE, Cuts(), NAME, CONFIG)
    half.begin(batch(1e4, noise=draw))
    sent = half.answer("fake", {"gt": torch.randn(8, *ARCHITECTURE.shapes("generator")[-2])})
    bounds = HeadBounds(ARCHITECTURE, Cuts(), NAME, CONFIG, noise)
    bounds.check(sent, 0)
    with pytest.raises(UploadError):
        bounds.check({name: x * 4 for name, x in sent.items()}, 0)


@pytest.mark.parametrize(
    ("block", "found"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()), True),
        (nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2)), True),
        (nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3), nn.ReLU()), False),
        (nn.Sequential(nn.BatchNorm2d(2), nn.GELU()), False),
        (nn.Sequential(nn.BatchNorm2d(2, affine=False)), False),
        (nn.BatchNorm2d(2), False),
    ],
)
def test_a_bound_holds_only_where_normalisation_comes_last(block: nn.Module, found: bool) -> None:
    assert (last_normalisation(block) is not None) == found


@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        ([1.0, 2.0, 1e4], 2.0),
        # Others whose gradients are 0 are others all the same.
        ([0.0, 1.0, 1e4], 1.0),
        ([0.0, 0.0, 1.0, 1e4, 1e4], 1.0),
        ([0.0, 0.0, 0.0, 1.0, 1e4], 1.0),
    ],
)
def test_none_of_three_clients_or_more_counts_for_more_than_a_multiple_of_the_others(
    sizes: list[float], most: float
) -> None:
    tensors = {client: torch.full((4,), size) for client, size in enumerate(sizes)}
    for client, own in capped(tensors).items():
        if sizes[client] <= most:
            assert own is tensors[client]
        else:
            assert torch.allclose(own, torch.full((4,), most * FACTOR))


@pytest.mark.parametrize(
    "sizes",
    [
        [1.0, FACTOR * 1e3],
        [1.0, 2.0, 3.0],
        [0.0, 0.0, 0.0, 1.0],
        [1.0, 1.0, 0.999 * FACTOR, 0.0],
    ],
)
def test_others_stay_as_they_are(sizes: list[float]) -> None:
    """Nor can a client that sends nothing have the others scaled down."""
    tensors = {client: torch.full((4,), size) for client, size in enumerate(sizes)}
    assert all(own is tensors[client] for client, own in capped(tensors).items())
