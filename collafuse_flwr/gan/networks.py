"""Generator and discriminator as lists of named blocks, which may be cut between any two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from collafuse_flwr.config.gan_checks import max_extra_blocks
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.rng import derive_seed
from collafuse_flwr.gan.label_tail import LabelTail
from collafuse_flwr.gan.spectral_norm import SpectralConv2d, SpectralLinear
from collafuse_flwr.gan.upsampling import Upsampling

#: Values of a latent code z, and of the vector that stands for a label beside it.
LATENT, LABEL = 100, 10
NETS = ("generator", "discriminator")
#: Slope of the discriminator's leaky rectifiers.
SLOPE = 0.2


@dataclass(frozen=True)
class Block:
    """A named piece of a network; `build` makes it anew, with whatever the global random state gives."""

    name: str
    build: Callable[[], nn.Module]


@dataclass(frozen=True)
class Architecture:
    """A conditional GAN for images of `channels` x `size` x `size` in [-1, 1].

    The first block of either net also takes labels, int64 (n,), and so does any with `takes_labels`. The generator
    ends in tanh, the discriminator in one logit, (n, 1), or two (label_tail.py).
    """

    channels: int
    size: int
    num_classes: int
    generator: tuple[Block, ...]
    discriminator: tuple[Block, ...]

    def build(self, net: str, indices: range, name: tuple[int | str, ...]) -> Blocks:
        """Some blocks of `generator` or `discriminator`; the same `name` gives the same weights in any process.

        Every block is drawn from a stream of its own, so that its weights do not depend on where the net is cut.
        """
        blocks = {}
        for index in indices:
            block: Block = getattr(self, net)[index]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(*name, net, index))
                blocks[index] = block.build()
        return Blocks(blocks)

    def shapes(self, net: str) -> tuple[torch.Size, ...]:
        """The shape of one image after each block of `generator` or `discriminator`."""
        return _shapes(self, net)


@cache
def _shapes(architecture: Architecture, net: str) -> tuple[torch.Size, ...]:
    """Found once in a process: a client asks at every round."""
    with torch.device("meta"), torch.no_grad():
        labels = torch.zeros(2, dtype=torch.int64)
        image = (architecture.channels, architecture.size, architecture.size)
        x = torch.zeros((2, LATENT) if net == "generator" else (2, *image))
        blocks: tuple[Block, ...] = getattr(architecture, net)
        shapes = []
        for index, block in enumerate(blocks):
            x = run_block(block.build(), index, x, labels)
            shapes.append(x.shape[1:])
    return tuple(shapes)


class Blocks(nn.Module):
    """Neighbouring blocks of a net, which keep their indices in it."""

    def __init__(self, blocks: dict[int, nn.Module]) -> None:
        super().__init__()
        self.indices = tuple(sorted(blocks))
        self.blocks = nn.ModuleDict({str(index): blocks[index] for index in self.indices})

    def __getitem__(self, index: int) -> nn.Module:
        return self.blocks[str(index)]

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The blocks one after the other."""
        for index in self.indices:
            x = run_block(self[index], index, x, labels)
        return x


def run_block(block: nn.Module, index: int, x: Tensor, labels: Tensor | None) -> Tensor:
    """One block."""
    result: Tensor = block(x, labels) if takes_labels(block, index) else block(x)
    return result


def takes_labels(block: nn.Module, index: int) -> bool:
    """Whether a block takes labels too: the first of a net does."""
    return index == 0 or bool(getattr(block, "takes_labels", False))


@dataclass(frozen=True)
class Cuts:
    """How many blocks a client keeps beyond those it must: the first of each net's head, the last of its tail.

    Written as four digits, in this order: 0000 keeps least. The block in the middle of either net is the server's.
    """

    g_head: int = 0
    g_tail: int = 0
    d_head: int = 0
    d_tail: int = 0

    @classmethod
    def parse(cls, text: str) -> Cuts:
        """Read four digits.

        Raises:
            SettingError: they are not four.
        """
        if len(text) != 4 or not text.isdecimal():
            raise SettingError("split_gan.client_cuts", text, "four digits: extra blocks in heads and tails of G and D")
        return cls(*map(int, text))

    def __str__(self) -> str:
        return f"{self.g_head}{self.g_tail}{self.d_head}{self.d_tail}"

    def of(self, net: str) -> tuple[int, int]:
        """Extra blocks in head and tail of `generator` or `discriminator`."""
        return (self.g_head, self.g_tail) if net == "generator" else (self.d_head, self.d_tail)

    def check(self, architecture: Architecture) -> None:
        """Hold the cuts against the nets.

        Raises:
            SettingError: the client would keep the middle block.
        """
        for net in NETS:
            most = max_extra_blocks(len(getattr(architecture, net)))
            if any(extra > limit for extra, limit in zip(self.of(net), most, strict=True)):
                allowed = f"at most {most[0]} extra blocks in the head of the {net} and {most[1]} in its tail"
                raise SettingError("split_gan.client_cuts", str(self), allowed)

    def head(self, net: str) -> range:
        """Indices of the blocks in the client's head of a net."""
        return range(1 + self.of(net)[0])

    def tail(self, net: str, count: int) -> range:
        """Indices of the blocks in the client's tail of a net of `count` blocks."""
        return range(count - 1 - self.of(net)[1], count)

    def template(self, architecture: Architecture) -> dict[str, Tensor]:
        """The state of all blocks that such a client keeps, without memory: names, shapes and types."""
        state: dict[str, Tensor] = {}
        for net in NETS:
            count = len(getattr(architecture, net))
            for index in (*self.head(net), *self.tail(net, count)):
                with torch.device("meta"):
                    block = getattr(architecture, net)[index].build()
                state |= {block_name(net, index, name): value for name, value in block.state_dict().items()}
        return state


def block_name(net: str, index: int, name: str) -> str:
    """What a tensor of a block's state is called outside of it: generator.0.linear.weight."""
    return f"{net}.{index}.{name}"


def group_by_block(state: Mapping[str, Tensor], net: str) -> dict[int, dict[str, Tensor]]:
    """A state by such names -> the states of the blocks of one net."""
    blocks: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        owner, index, own = name.split(".", 2)
        if owner == net:
            blocks.setdefault(int(index), {})[own] = value
    return blocks


def only(net: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a state by such names has of one net."""
    return {name: value for name, value in state.items() if name.startswith(f"{net}.")}


def flatten_blocks(net: str, blocks: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The states of blocks of one net -> one state, by such names."""
    return {block_name(net, index, name): value for index, own in blocks.items() for name, value in own.items()}


@cache
def build_architecture(
    channels: int,
    size: int,
    num_classes: int,
    width: int = 64,
    depth: int = 1,
    *,
    spectral: bool = False,
    tail: bool = False,
) -> Architecture:
    """The conditional GAN of HuSCF-GAN's MNIST experiments, for any square images; theirs is 28 pixels, width 64.

    Args:
        channels: of the images.
        size: side in pixels, a multiple of 4 from 8.
        num_classes: labels are 0..num_classes - 1.
        width: feature maps of the generator's last hidden block and the discriminator's first.
        depth: blocks of equal resolution in the middle of either net.
        spectral: the discriminator's weights are divided by their spectral norm, and nothing in it is normalised by
            batches, which would undo that.
        tail: the discriminator takes labels in its last block as well (label_tail.py): its first is given other ones.

    Raises:
        SettingError: the images are of another size.
    """
    if size % 4 or size < 8:
        raise SettingError("image_size", size, "a multiple of 4 pixels from 8 for this strategy")
    quarter, w = size // 4, width
    up: dict[str, Any] = {"kernel_size": 4, "stride": 2, "padding": 1}
    flat: dict[str, Any] = {"kernel_size": 3, "padding": 1}
    bottom = (size // 4 - 2) // 2 + 1
    generator = (
        Block("stem", lambda: GeneratorStem(num_classes, 4 * w, quarter)),
        Block("up1", lambda: _up(Upsampling(4 * w, 2 * w, **up))),
        *(Block(f"middle{i}", lambda: _up(Upsampling(2 * w, 2 * w, **flat))) for i in range(depth)),
        Block("up2", lambda: _up(Upsampling(2 * w, w, **up))),
        Block("image", lambda: nn.Sequential(nn.ConvTranspose2d(w, channels, **flat), nn.Tanh())),
    )
    conv = SpectralConv2d if spectral else nn.Conv2d
    dense = SpectralLinear if spectral else nn.Linear
    values = 4 * w * bottom**2
    discriminator = (
        Block("stem", lambda: DiscriminatorStem(num_classes, channels, size, w, conv)),
        Block("down1", lambda: _down(conv(w, 2 * w, **up))),
        *(Block(f"middle{i}", lambda: _down(conv(2 * w, 2 * w, **flat))) for i in range(depth)),
        Block("down2", lambda: _down(conv(2 * w, 4 * w, **up))),
        Block("logit", lambda: nn.Sequential(nn.Flatten(), dense(values, 1)))
        if not tail
        else Block("logits", lambda: LabelTail(num_classes, values, spectral=spectral)),
    )
    return Architecture(channels, size, num_classes, generator, discriminator)


class GeneratorStem(nn.Module):
    """(z, labels) -> feature maps at a quarter of the resolution."""

    def __init__(self, num_classes: int, maps: int, side: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, LABEL)
        self.linear = nn.Linear(LATENT + LABEL, maps * side**2)
        self.norm = nn.BatchNorm1d(maps * side**2)
        self.shape = maps, side, side

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Args: z (n, 100), labels int64 (n,)."""
        conditioned = torch.cat([z, self.embedding(labels)], dim=1)
        return torch.relu_(self.norm(self.linear(conditioned))).view(-1, *self.shape)


class DiscriminatorStem(nn.Module):
    """(images, labels) -> feature maps at half the resolution; a label is a learnt picture, one more channel."""

    def __init__(
        self, num_classes: int, channels: int, size: int, maps: int, conv: type[nn.Conv2d] = nn.Conv2d
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, size**2)
        self.down = _down(conv(channels + 1, maps, 4, 2, 1))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Args: x (n, channels, size, size), labels int64 (n,)."""
        picture = self.embedding(labels).view(-1, 1, *x.shape[2:])
        result: Tensor = self.down(torch.cat([x, picture], dim=1))
        return result


def _up(convolution: Upsampling) -> nn.Module:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True))


def _down(convolution: nn.Conv2d) -> nn.Module:
    rectifier = nn.LeakyReLU(SLOPE, inplace=True)
    if isinstance(convolution, SpectralConv2d):
        return nn.Sequential(convolution, rectifier)
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), rectifier)
