"""The end of a discriminator that meets labels after the cut, and never shows the server a real image's.

Of features h = h(x), with a label y, it makes two logits:

    any(h) = <w, h> + b            real, whatever the label?
    match(h, y) = <e_y, f(h)>      real, of this label?    f one dense layer, e_y the row of the class

The discriminator's gradient at h is that of `any` alone: `match` learns from h and sends nothing back, so nothing that
goes to the server of a real image depends on its label. The generator's gradient at a fake image's h is that of both,
with f and e as they were when the round began: what batches of real labels have moved in them since is in no message
before the weights that end the round.

The discriminator's first block is given labels drawn anew at every pass. Their pictures are noise to it, which keeps it
from winning: without them the generator collapses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, leaky_relu, linear

from collafuse_flwr.gan.spectral_norm import SpectralLinear, normalised

#: Values of f.
FEATURES = 64
_SLOPE = 0.2


class LabelTail(nn.Module):
    """(features, labels) -> (n, 2): `any` and `match`."""

    takes_labels = True
    begun_weight: Tensor
    begun_bias: Tensor
    begun_rows: Tensor

    def __init__(self, num_classes: int, values: int, *, spectral: bool = False) -> None:
        """`values` are those of a row of features; the generator sees no `match` before `begin_round`."""
        super().__init__()
        dense = SpectralLinear if spectral else nn.Linear
        self.any, self.f, self.rows = dense(values, 1), dense(values, FEATURES), nn.Embedding(num_classes, FEATURES)
        self.learning = False
        self.register_buffer("begun_weight", torch.zeros_like(self.f.weight))
        self.register_buffer("begun_bias", torch.zeros_like(self.f.bias))
        self.register_buffer("begun_rows", torch.zeros_like(self.rows.weight))

    def begin_round(self) -> None:
        """From here on the generator is judged by f and e as they are now."""
        weight = normalised(self.f.weight) if isinstance(self.f, SpectralLinear) else self.f.weight
        for own, value in (
            (self.begun_weight, weight),
            (self.begun_bias, self.f.bias),
            (self.begun_rows, self.rows.weight),
        ):
            own.copy_(value.detach())

    def forward(self, h: Tensor, labels: Tensor) -> Tensor:
        """Args: h (n, ...), labels int64 (n,)."""
        h = h.flatten(1)
        if self.learning:
            f, rows = self.f(h.detach()), self.rows(labels)
        else:
            f, rows = linear(h, self.begun_weight, self.begun_bias), embedding(labels, self.begun_rows)
        match = (leaky_relu(f, _SLOPE) * rows).sum(dim=1, keepdim=True)
        return torch.cat([self.any(h), match], dim=1)


def label_tails(module: nn.Module) -> list[LabelTail]:
    """Those in a module."""
    return [part for part in module.modules() if isinstance(part, LabelTail)]


@contextmanager
def learning_labels(module: nn.Module) -> Iterator[None]:
    """The discriminator's own step: label tails inside learn, and send back the gradient of `any` alone."""
    for part in label_tails(module):
        part.learning = True
    try:
        yield
    finally:
        for part in label_tails(module):
            part.learning = False
