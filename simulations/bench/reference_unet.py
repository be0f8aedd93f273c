"""A U-Net of the size that CollaFuse is published with, written out in plain torch: width 16, multipliers 1-2-4-8.

Every resolution has two residual blocks and attention of four heads of 32 channels, linear but at the lowest one, where
it is full. Embeddings of t scale and shift what is between the convolutions of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Channels of the blocks on the way down, from the images' own resolution on, and of what each resolution hands on.
WIDTHS, NEXT = (16, 16, 32, 64), (16, 32, 64, 128)
HEADS, HEAD_WIDTH, GROUPS = 4, 32, 8


class PlainUNet(nn.Module):
    """The noise in x_t, shape (batch, channels, side, side), at t, (batch,); the side is a multiple of 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, embedding = WIDTHS[0], 4 * WIDTHS[0]
        self.frequencies = torch.exp(torch.linspace(0, -9.21, first // 2))
        self.embed = nn.Sequential(nn.Linear(first, embedding), nn.GELU(), nn.Linear(embedding, embedding))
        self.first = nn.Conv2d(channels, first, 7, padding=3)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for width, below in zip(WIDTHS, NEXT, strict=True):
            lowest = width == WIDTHS[-1]
            resize = nn.Conv2d(width, below, 3, padding=1) if lowest else _halved(width, below)
            self.down.append(_Level(width, width, embedding, full=lowest, resize=resize))
            resize = nn.Conv2d(below, width, 3, padding=1)
            doubled = nn.Sequential(nn.Upsample(scale_factor=2), resize) if len(self.up) else resize
            self.up.insert(0, _Level(below + width, below, embedding, full=lowest, resize=doubled))
        middle = NEXT[-1]
        self.middle = nn.ModuleList([_Block(middle, middle, embedding) for _ in range(2)])
        self.attend = _Attention(middle, full=True)
        self.last = _Block(2 * first, first, embedding)
        self.out = nn.Conv2d(first, channels, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The prediction, of the shape of `x`."""
        angles = t[:, None] * self.frequencies
        embedding = self.embed(torch.cat([angles.sin(), angles.cos()], 1))
        x = entered = self.first(x)
        kept = []
        for level in self.down:
            x, both = level(x, embedding, [])
            kept += both
        first, second = self.middle
        x = second(self.attend(first(x, embedding)), embedding)
        for level in self.up:
            x, _ = level(x, embedding, [kept.pop(), kept.pop()])
        prediction: Tensor = self.out(self.last(torch.cat([x, entered], 1), embedding))
        return prediction


class _Level(nn.Module):
    """Two blocks and attention at one resolution, then the way to the next."""

    def __init__(self, inputs: int, width: int, embedding: int, *, full: bool, resize: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([_Block(inputs, width, embedding) for _ in range(2)])
        self.attend, self.resize = _Attention(width, full=full), resize

    def forward(self, x: Tensor, embedding: Tensor, skips: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What goes on, and what each block makes; `skips` join the blocks' inputs."""
        first, second = self.blocks
        before = first(torch.cat([x, *skips[:1]], 1), embedding)
        after = self.attend(second(torch.cat([before, *skips[1:]], 1), embedding))
        return self.resize(after), [before, after]


class _Block(nn.Module):
    """Two convolutions, with scale and shift by t between them, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.modulate = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * outputs))
        self.convolve = nn.ModuleList(nn.Conv2d(width, outputs, 3, padding=1) for width in (inputs, outputs))
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, outputs) for _ in range(2))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulate(embedding)[:, :, None, None].chunk(2, 1)
        hidden = functional.silu(self.norms[0](self.convolve[0](x)) * (scale + 1) + shift)
        output: Tensor = functional.silu(self.norms[1](self.convolve[1](hidden))) + self.shortcut(x)
        return output


class _Attention(nn.Module):
    """Attention over all pixels, beside a shortcut; linear attention (arXiv 1812.01243) where it is not full."""

    def __init__(self, width: int, *, full: bool) -> None:
        super().__init__()
        inner, self.full = HEADS * HEAD_WIDTH, full
        self.norm = nn.GroupNorm(1, width)
        self.to_qkv = nn.Conv2d(width, 3 * inner, 1, bias=False)
        self.project = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.to_qkv(self.norm(x)).unflatten(1, (3, HEADS, HEAD_WIDTH)).flatten(4)
        q, k, v = qkv.unbind(1)
        if self.full:
            weights = (q.transpose(2, 3) @ k * HEAD_WIDTH**-0.5).softmax(-1)
            seen = v @ weights.transpose(2, 3)
        else:
            seen = v @ k.softmax(-1).transpose(2, 3) @ q.softmax(2) * HEAD_WIDTH**-0.5
        output: Tensor = self.project(seen.flatten(1, 2).unflatten(2, x.shape[2:])) + x
        return output


def _halved(inputs: int, outputs: int) -> nn.Module:
    """Half the side: each square of four pixels becomes one of four times the channels."""
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * inputs, outputs, 1))
