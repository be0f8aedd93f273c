"""A fixed grid for what has been noised: the low bits of a sum tell what was added (Mironov, CCS 2012)."""

from __future__ import annotations

import torch
from torch import Tensor

#: What noised values are multiples of, in their unit.
GRID = 2.0**-12


def on_grid(x: Tensor, unit: float = 1.0) -> Tensor:
    """Noised values rounded to multiples of 2^-12 units, of the type of `x`."""
    step = unit * GRID
    return torch.round(x / step) * step
