"""Differentiable augmentation (DiffAugment, arXiv 2006.10738) of what the discriminator sees, real and fake.

    D(T(x, theta)),  D(T(G(z), theta'))        theta, theta' drawn anew for each image

On the client, between images and the discriminator's head: the generator's gradient at an image passes through T.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Shares of an image's side by which it is shifted at most, and of its side that is cut out.
_SHIFT, _HOLE = 0.125, 0.5


def augment(x: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """T of images (n, channels, size, size), with the next numbers of a generator on the CPU."""
    transforms = {"color": _color, "translation": _translated, "cutout": _cut_out}
    for name in kind.split("+"):
        x = transforms[name](x, generator)
    return x


def _color(x: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness in +-0.5, and saturation in [0, 2], contrast in [0.5, 1.5] around the means."""
    x = x + (_uniform(x, generator) - 0.5)
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * (2 * _uniform(x, generator)) + grey
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * (_uniform(x, generator) + 0.5) + mean


def _translated(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted by whole pixels, an eighth of the side at most (and one at least); zeros come in."""
    most = max(1, round(_SHIFT * x.shape[-1]))
    moved = torch.randint(-most, most + 1, (2, len(x), 1, 1, 1), generator=generator).to(x.device)
    for axis, shift in zip((2, 3), moved, strict=True):
        shape = [1, 1, 1, 1]
        shape[axis] = x.shape[axis]
        source = torch.arange(x.shape[axis], device=x.device).view(shape) - shift
        inside = (source >= 0) & (source < x.shape[axis])
        x = x.gather(axis, source.clamp(0, x.shape[axis] - 1).expand_as(x)) * inside
    return x


def _cut_out(x: Tensor, generator: torch.Generator) -> Tensor:
    """A square of half the side, anywhere that its centre is in the image, is 0."""
    size = x.shape[-1]
    half = max(1, round(_HOLE * size)) / 2
    centres = torch.randint(0, size + 1, (2, len(x), 1, 1), generator=generator).to(x.device)
    pixels = torch.arange(size, device=x.device) + 0.5
    rows = (pixels.view(1, -1, 1) - centres[0]).abs() < half
    columns = (pixels.view(1, 1, -1) - centres[1]).abs() < half
    return x * ~(rows & columns)[:, None]


def _uniform(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand((len(x), 1, 1, 1), generator=generator).to(x.device)
