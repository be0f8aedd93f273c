"""Layers of several networks as one against each of them by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.diffusion.folded import Folded, can_fold
from collafuse_flwr.diffusion.unet import PRESETS, ImageShape, build_network

COUNT, BATCH = 3, 4
IMAGES, ROWS = (4, 6, 6), (5, 4)

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolution": (lambda: nn.Conv2d(4, 2, 3, padding=1), IMAGES),
    "with a stride": (lambda: nn.Conv2d(4, 6, 3, stride=2), IMAGES),
    "of a pixel": (lambda: nn.Conv2d(4, 6, 1), IMAGES),
    "normalisation": (lambda: nn.GroupNorm(2, 4), IMAGES),
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "of many rows": (lambda: nn.Linear(4, 3), ROWS),
    "without bias": (lambda: nn.Linear(4, 3, bias=False), ROWS),
    "without weights": (lambda: nn.Sequential(nn.SiLU(), nn.Upsample(scale_factor=2.0)), IMAGES),
}


def made(make: Callable[[], nn.Module]) -> list[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [make() for _ in range(COUNT)]
        for p in (p for layer in layers for p in layer.parameters()):
            nn.init.normal_(p)
    return layers


def folded(layers: list[nn.Module], x: Tensor) -> Tensor:
    """The outputs (COUNT, BATCH, ...) for inputs of that shape."""
    weights = {
        name: torch.stack([layer.get_parameter(name) for layer in layers]) for name, _ in layers[0].named_parameters()
    }
    with Folded(COUNT):
        output: Tensor = functional_call(layers[0], weights, (x.transpose(0, 1).flatten(0, 1),))
    return output.reshape(BATCH, COUNT, *output.shape[1:]).transpose(0, 1)


@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS.keys())
def test_a_layer_gives_the_outputs_and_gradients_of_each(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    layers = made(make)
    x = torch.randn(COUNT, BATCH, *shape, generator=named_generator("x")).requires_grad_()
    inputs = [x, *(p for layer in layers for p in layer.parameters())]
    outputs = [torch.stack([layer(own) for layer, own in zip(layers, x, strict=True)]), folded(layers, x)]
    torch.testing.assert_close(outputs[1], outputs[0])
    wanted = torch.randn(outputs[0].shape, generator=named_generator("gradient"))
    gradients = [torch.autograd.grad(output, inputs, wanted) for output in outputs]
    for own, expected in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(own, expected, atol=1e-4, rtol=1e-4)


def test_each_network_looks_up_its_own_classes() -> None:
    layers = made(lambda: nn.Embedding(5, 2))
    labels = torch.randint(0, 5, (COUNT, BATCH), generator=named_generator("labels"))
    expected = torch.stack([layer(own) for layer, own in zip(layers, labels, strict=True)])
    assert torch.equal(folded(layers, labels), expected)
    labels[0, 0] = 5
    with pytest.raises(IndexError):
        folded(layers, labels)


@pytest.mark.parametrize("model", PRESETS)
@pytest.mark.parametrize("labels", [(0, 0), (10, 0), (0, 4)])
def test_every_preset_can_be_stacked(model: str, labels: tuple[int, int]) -> None:
    assert can_fold(build_network(model, ImageShape(1, 8, *labels), 0, "a network"))
