"""Images and labels in closed form from what the first block of a split discriminator uploads.

The block is a = LeakyReLU(scale * (z - mean) / deviation + shift), z = W * [image, picture of the label] + bias. The
server averages its weights, so it knows all but the batch's mean and deviation. Undoing the rectifier and the affine
map leaves h = (z - mean) / deviation, one linear relation short of z. With S = diag(deviation) and m = mean - bias

    S h + m = W * x    for some x:    2 unknowns a filter, and more values than pixels to hold them against.

    stem = SolvableStem.of(discriminator_head[0].state_dict())
    batch = invert_activations(stem, activations)    # of one batch, real or generated

A client that adds noise normalises by the running statistics instead, which the server averages as well: then nothing
is unknown but the noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import BatchNorm2d
from torch.nn.functional import conv2d, conv_transpose2d, fold, normalize, unfold

#: Slope of the discriminator's leaky rectifiers.
SLOPE = 0.2
#: Rows whose images under all filters are held at once.
_ROWS = 8


@dataclass(frozen=True)
class InvertedBatch:
    """Images (n, channels, size, size), clamped to [-1, 1], and labels, int64 (n,)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class SolvableStem:
    """What the server knows of a discriminator's first block, in float64.

    `kernel` is W, (filters, channels + 1, k, k), `scale` and `shift` are (filters,), and `pictures`, of shape
    (classes, 1, size, size), stand for the labels in the last channel. `statistics` are S and m, each (filters, 1, 1),
    where the block normalises by its running ones.
    """

    kernel: Tensor
    scale: Tensor
    shift: Tensor
    pictures: Tensor
    stride: int = 2
    padding: int = 1
    slope: float = SLOPE
    statistics: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def fits(state: Mapping[str, Tensor]) -> bool:
        """Whether a `DiscriminatorStem` of such a `state_dict` normalises by batches, as here."""
        return "down.1.weight" in state

    @classmethod
    def of(cls, state: Mapping[str, Tensor], *, running: bool = False) -> SolvableStem:
        """From the `state_dict` of a `DiscriminatorStem`, which normalises by its `running` statistics or a batch's."""
        names = ("down.0.weight", "down.1.weight", "down.1.bias", "embedding.weight")
        kernel, scale, shift, pictures = (state[name].detach().double() for name in names)
        size = math.isqrt(pictures.shape[1])
        statistics = None
        if running:
            own = ("down.1.running_var", "down.1.running_mean", "down.0.bias")
            variance, mean, bias = (state[name].detach().double().view(-1, 1, 1) for name in own)
            statistics = (variance + BatchNorm2d(1).eps).sqrt(), mean - bias
        return cls(kernel, scale, shift, pictures.view(-1, 1, size, size), statistics=statistics)

    @property
    def solvable(self) -> bool:
        """Whether different patches never give the block the same values."""
        rank = int(torch.linalg.matrix_rank(self.kernel.flatten(1)))
        return rank == self.kernel[0].numel() and bool(self.scale.all())

    def check(self, activations: Tensor) -> None:
        """Hold activations, and the block itself, against what the closed form needs.

        Raises:
            ValueError: they are of another block, or different patches give the block the same values.
        """
        size, width = self.pictures.shape[-1], self.kernel.shape[-1]
        side = (size + 2 * self.padding - width) // self.stride + 1
        expected, shape = (len(self.kernel), side, side), tuple(activations.shape[1:])
        if shape != expected:
            raise ValueError(
                f"activations of shape {shape} are not those of the first block, {expected}: "
                "where a client keeps more blocks there is no closed form"
            )
        if not self.solvable:
            rank, needed = int(torch.linalg.matrix_rank(self.kernel.flatten(1))), self.kernel[0].numel()
            raise ValueError(
                f"the kernel has rank {rank} and {int((self.scale == 0).sum())} filters are scaled by 0: "
                f"the closed form needs a rank of {needed}, the values in a patch, and no such filter"
            )

    def undo(self, activations: Tensor) -> Tensor:
        """h = (z - mean) / deviation from a."""
        affine = torch.where(activations > 0, activations, activations / self.slope)
        return (affine - self.shift.view(-1, 1, 1)) / self.scale.view(-1, 1, 1)

    def patches(self, z: Tensor, channels: slice) -> Tensor:
        """Some channels of x from W * x by least squares in every patch, and the mean where patches overlap."""
        size, width = self.pictures.shape[-1], self.kernel.shape[-1]
        inverse = torch.linalg.pinv(self.kernel[:, channels].flatten(1))
        folded = fold(inverse @ z.flatten(2), size, width, padding=self.padding, stride=self.stride)
        return folded / self.overlaps()

    def overlaps(self) -> Tensor:
        """How many patches cover each pixel, (1, 1, size, size)."""
        size, width = self.pictures.shape[-1], self.kernel.shape[-1]
        cover = unfold(torch.ones_like(self.pictures[:1]), width, padding=self.padding, stride=self.stride)
        return fold(cover, size, width, padding=self.padding, stride=self.stride)


@torch.no_grad()
def invert_activations(stem: SolvableStem, activations: Tensor) -> InvertedBatch:
    """Images and labels of a batch, exact but for rounding and noise, from the activations of the first block.

    In training mode S and m are known up to a common factor from `_statistics`. Then the last channel of x shows
    pictures of labels, whose true size gives the factor; without them x has only the image's channels.

    A stem that is some steps old does too: images lose what the weights have moved, labels last longer.

    Args:
        stem: the block, as the server knows it since the last average.
        activations: (n, filters, side, side) of one batch, normalised together.

    Raises:
        ValueError: the activations are not those of the block, or it has too few filters.
    """
    stem.check(activations)
    activations = activations.double()
    h = stem.undo(activations)
    # Noise on a, or rounding, is larger in h where the rectifier was undone.
    noise = torch.where(activations > 0, 1.0, stem.slope**-2).double().mean(dim=(0, 2, 3)) / stem.scale.square()
    deviation, offset = stem.statistics or _statistics(stem, h, noise)
    z = deviation * h + offset
    shown = stem.patches(z, slice(None))[:, -1].flatten(1)
    labels = (normalize(shown) @ normalize(stem.pictures.flatten(1)).T).argmax(dim=1)
    pictures = stem.pictures[labels]
    factor = torch.ones(()) if stem.statistics else (shown * pictures.flatten(1)).sum() / pictures.square().sum()
    from_labels = conv2d(pictures, stem.kernel[:, -1:], stride=stem.stride, padding=stem.padding)
    images = stem.patches(z / factor - from_labels, slice(-1))
    return InvertedBatch(images.clamp(-1, 1).to(torch.float32), labels)


def _statistics(stem: SolvableStem, h: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """S and m, each (filters, 1, 1), up to a common factor, given the variance of noise in h, (filters,).

    With U the map from images to patches and W+ the pseudo-inverse, the residual of q = S h + m is

        |(I - W W+) q|^2 + |(I - U U+) W+ q|^2 = u^T Q u,    u = (S, m):

    what no patch explains, and what patches that overlap, or lie on the border of zeros, contradict. The solution is
    the least eigenvector of Q, with m eliminated and S scaled to equal noise (total least squares).
    """
    filters, flat = len(stem.kernel), stem.kernel.flatten(1)
    inverse = torch.linalg.pinv(flat)
    taps = inverse.T.reshape(stem.kernel.shape).repeat(2, 1, 1, 1)
    weight = torch.eye(filters, dtype=h.dtype, device=h.device) - flat @ inverse + inverse.T @ inverse
    q, cover = torch.zeros(2 * filters, 2 * filters, dtype=h.dtype, device=h.device), stem.overlaps().sqrt()
    for rows in torch.cat([h, torch.ones_like(h)], dim=1).split(_ROWS):
        images = conv_transpose2d(rows, taps, stride=stem.stride, padding=stem.padding, groups=2 * filters)
        explained = (images / cover).unflatten(1, (2 * filters, -1)).transpose(0, 1).flatten(1)
        values = rows.transpose(0, 1).flatten(1)
        q += (values @ values.T) * weight.repeat(2, 2) - explained @ explained.T
    eliminate = -torch.linalg.solve(q[filters:, filters:], q[filters:, :filters])
    alone = q[:filters, :filters] + q[:filters, filters:] @ eliminate
    equal = (noise * weight.diagonal()).rsqrt()
    deviation = equal * torch.linalg.eigh(equal[:, None] * alone * equal).eigenvectors[:, 0]
    deviation *= deviation.sum().sign()
    return deviation.view(-1, 1, 1), (eliminate @ deviation).view(-1, 1, 1)
