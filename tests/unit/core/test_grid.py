from __future__ import annotations

import torch

from collafuse_flwr.core.grid import GRID, on_grid


def test_values_are_multiples_of_the_step_and_move_by_half_of_it_at_most() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for unit in (1.0, 0.25, 8.0):
        rounded, step = on_grid(x, unit), unit * GRID
        assert torch.equal(rounded / step, (rounded / step).round())
        assert (rounded - x).abs().max() <= step / 2
        assert rounded.unique().numel() > 500
    assert on_grid(x.float()).dtype == torch.float32
