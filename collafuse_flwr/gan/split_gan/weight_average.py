"""An average of a generator's weights over training steps, to make samples with (arXiv 1806.04498).

    a_0 = w_0,    a_t = d a_(t-1) + (1 - d) w_t        w_t: the weights and running statistics after step t

Whoever holds blocks keeps their average; nothing of it is sent while the GAN trains.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """a of one module's state; empty before the first step, and with decay 0."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step; whole numbers are the last ones."""
        if not self.decay:
            return
        for name, value in self.module.state_dict().items():
            if name in self.tensors and value.is_floating_point():
                self.tensors[name].lerp_(value, 1 - self.decay)
            else:
                self.tensors[name] = value.clone()

    def state(self, prefix: str) -> dict[str, Tensor]:
        """The average, below a prefix."""
        return {prefix + name: value for name, value in self.tensors.items()}

    def load(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        """Take up what `state` gave."""
        self.tensors = {}
        self.take({name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)})

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from averages of some of the module's state, by its own names, and laid out in memory as it is."""
        like = self.module.state_dict()
        self.tensors |= {name: torch.empty_like(like[name]).copy_(x) for name, x in tensors.items() if self.decay}
