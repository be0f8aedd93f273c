"""Layers that are divided by their largest singular value, exactly and without a state of their own."""

from __future__ import annotations

import pytest
import torch

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.gan.aggregation import aggregate
from collafuse_flwr.gan.networks import build_architecture
from collafuse_flwr.gan.spectral_norm import SpectralConv2d, SpectralLinear, normalised, top_singular


@pytest.mark.parametrize("shape", [(3, 5), (8, 2, 4, 4), (16, 1, 1, 1), (1, 7), (9, 4)])
def test_it_is_the_largest_singular_value_with_its_vectors(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape, generator=named_generator("w", *shape)).flatten(1)
    sigma, u, v = top_singular(matrix)
    torch.testing.assert_close(sigma, torch.linalg.matrix_norm(matrix, 2))
    torch.testing.assert_close(matrix @ v, sigma * u)
    torch.testing.assert_close(matrix.T @ u, sigma * v)


def test_the_gradient_is_that_through_torch_s_own_norm() -> None:
    layer = SpectralConv2d(2, 6, 3)
    towards = torch.randn(layer.weight.shape, generator=named_generator("towards"))
    theirs = layer.weight / torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
    expected = torch.autograd.grad(theirs, layer.weight, towards)
    gradient = torch.autograd.grad(normalised(layer.weight), layer.weight, towards)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e6])
def test_layers_stretch_nothing_by_more_than_one(scale: float) -> None:
    for layer in (SpectralConv2d(3, 4, 3), SpectralLinear(6, 2)):
        layer.weight.data.mul_(scale)
        largest = torch.linalg.matrix_norm(normalised(layer.weight).flatten(1), 2).item()
        assert largest == pytest.approx(1.0 if scale else 0.0, abs=1e-4)


@torch.no_grad()
def test_every_block_of_the_discriminator_is_so_and_keeps_nothing_but_its_weights() -> None:
    architecture = build_architecture(1, 8, 3, width=4, spectral=True)
    blocks = architecture.build("discriminator", range(5), ("d",))
    layers = [part for part in blocks.modules() if isinstance(part, (SpectralConv2d, SpectralLinear))]
    assert len(layers) == 5
    assert {name.rsplit(".", 1)[1] for name in blocks.state_dict()} == {"weight", "bias"}
    assert list(blocks.buffers()) == []


def test_an_average_of_clients_blocks_is_normalised_like_any_weights() -> None:
    """Vectors of power iterations of opposite sign would have cancelled."""
    layer = SpectralLinear(5, 3)
    states = {c: {0: {"weight": torch.randn((3, 5), generator=named_generator(c))}} for c in (0, 1)}
    alike = {0: 0.5, 1: 0.5}
    clients, _ = aggregate(states, {}, cluster_of={0: 0, 1: 0}, within=alike, overall=alike)
    layer.load_state_dict(dict(clients[0][0]) | {"bias": torch.zeros(3)})
    mean = (states[0][0]["weight"] + states[1][0]["weight"]) / 2
    torch.testing.assert_close(normalised(layer.weight), mean / torch.linalg.matrix_norm(mean, 2))


def test_it_is_exact_under_sixteen_bits_of_arithmetic() -> None:
    layer = SpectralLinear(64, 32)
    with torch.autocast("cpu", torch.bfloat16):
        weight = normalised(layer.weight)
    assert torch.linalg.matrix_norm(weight.float(), 2).item() == pytest.approx(1, abs=1e-5)
