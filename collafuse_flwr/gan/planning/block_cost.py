"""What every block of a GAN costs for one batch: operations, bytes that it puts out, and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from collafuse_flwr.gan.label_tail import learning_labels
from collafuse_flwr.gan.networks import LATENT, Architecture, Block, takes_labels

LatencyVariant = Literal["corrected", "paper"]
#: Copies of the weights on a client: themselves, their gradients and Adam's two moments.
COPIES = 4
#: Operations for each normalised value, forward and backward, in the paper's count: its figures say so to 1 %.
PAPER_ELEMENTWISE = (10, 15)


@dataclass(frozen=True)
class BlockCost:
    """One block and one batch: operations forward and backward; bytes put out, of weights, and kept for backward."""

    forward: float
    backward: float
    output: float
    weights: float
    kept: float


NetCost = tuple[BlockCost, ...]


@dataclass(frozen=True)
class GanCost:
    """The costs of both nets, block by block."""

    generator: NetCost
    discriminator: NetCost

    def of(self, net: str) -> NetCost:
        """The costs of `generator` or `discriminator`."""
        return self.generator if net == "generator" else self.discriminator


def measure(
    architecture: Architecture, batch_size: int, model: LatencyVariant = "corrected", itemsize: int = 4
) -> GanCost:
    """Run two images and four, and go on from there: everything is linear in the number of images.

    Products and convolutions count, a multiplication and an addition as 2, and the backward pass twice the forward one.
    `paper` counts a transposed convolution as if every value of its output took a whole kernel (stride^2 times too
    many), the backward pass of a net's first block once only, and some operations for each normalised value.
    `itemsize` is the bytes of a number that a block puts out, as it crosses.
    """
    nets = []
    for net in (architecture.generator, architecture.discriminator):
        image = (architecture.channels, architecture.size, architecture.size)
        first = (LATENT,) if net is architecture.generator else image
        two, four = (_measure_net(net, first, count, model, itemsize) for count in (2, 4))
        nets.append(tuple(_extrapolate(a, b, batch_size) for a, b in zip(two, four, strict=True)))
    return GanCost(*nets)


def _extrapolate(two: BlockCost, four: BlockCost, count: int) -> BlockCost:
    """The line through the costs for two and for four images, at another number."""
    pairs = [(getattr(two, name), getattr(four, name)) for name in BlockCost.__dataclass_fields__]
    return BlockCost(*(a + (b - a) / 2 * (count - 2) for a, b in pairs))


def _measure_net(
    blocks: tuple[Block, ...], first: tuple[int, ...], count: int, model: LatencyVariant, itemsize: int
) -> NetCost:
    costs = []
    labels = torch.zeros(count, dtype=torch.int64)
    inputs: tuple[Tensor, ...] = (torch.zeros(count, *first),)
    for index, block in enumerate(blocks):
        # The weights do not matter, but the global random state is not ours.
        with torch.random.fork_rng(devices=[]):
            module = block.build()
        if takes_labels(module, index):
            inputs = (*inputs, labels)
        output, products, normalised, kept = _forward(module, inputs, model)
        there, back = PAPER_ELEMENTWISE if model == "paper" else (0, 0)
        # The gradients of the inputs are as much again as those of the weights.
        backward = products if model == "paper" and index == 0 else 2 * products
        weights = sum(parameter.nbytes for parameter in module.parameters())
        flops = products + there * normalised, backward + back * normalised
        costs.append(BlockCost(*flops, output.numel() * itemsize, weights, kept))
        inputs = (output.detach().requires_grad_(),)
    return tuple(costs)


def _forward(module: nn.Module, inputs: tuple[Tensor, ...], model: LatencyVariant) -> tuple[Tensor, int, int, int]:
    """A block's output, operations of its products, values that it normalises, and bytes that backward needs."""
    products, normalised = [0], [0]
    # By storage, because views are kept as well: of weights, and of one another.
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def count(layer: nn.Module, x: tuple[Tensor, ...], y: Tensor) -> None:
        products.append(_products(layer, x[0], y, model))
        normalised.append(y.numel() * isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d))

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    for layer in module.modules():
        layer.register_forward_hook(count)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), learning_labels(module):
        output: Tensor = module(*inputs)
    return output, sum(products), sum(normalised), sum(kept.values())


def _products(layer: Any, x: Tensor, y: Tensor, model: LatencyVariant) -> int:
    """Operations of one layer: every value of a convolution's smaller map meets the whole of a kernel."""
    if isinstance(layer, nn.Linear):
        return 2 * layer.in_features * y.numel()
    if isinstance(layer, nn.Conv2d):
        return 2 * layer.weight[0].numel() * y.numel()
    if isinstance(layer, nn.ConvTranspose2d) and model == "paper":
        return 2 * layer.weight[:, 0].numel() * y.numel()
    if isinstance(layer, nn.ConvTranspose2d):
        return 2 * layer.weight[0].numel() * x.numel()
    return 0
