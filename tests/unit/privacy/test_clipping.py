from __future__ import annotations

from typing import Any

import pytest
import torch

from collafuse_flwr.config.config import Config
from collafuse_flwr.setup.privacy import clip
from tests.small_runs import dotted


def some(**given: Any) -> Config:
    return Config.from_flat(dotted(given))


def test_clipping_bounds_the_norm_and_keeps_the_direction() -> None:
    images = torch.randn(5, 1, 4, 4) * torch.tensor([0.01, 0.1, 1.0, 10.0, 100.0]).view(-1, 1, 1, 1)
    clipped = clip(some(upload__clip_norm=2.0), images)
    norms, before = clipped.flatten(1).norm(dim=1), images.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, before.clamp(max=2.0))
    assert torch.equal(clipped[:2], images[:2])
    torch.testing.assert_close(clipped / norms.view(-1, 1, 1, 1), images / before.view(-1, 1, 1, 1))


def test_pfdm_clips_at_three_quarters_of_full_contrast_and_collafuse_does_not() -> None:
    images = torch.ones(1, 1, 4, 4)
    assert float(clip(some(strategy="pfdm"), images).norm()) == pytest.approx(3.0)
    assert float(clip(some(strategy="pfdm", upload__clip_norm=1.5), images).norm()) == pytest.approx(1.5)
    assert torch.equal(clip(some(), images), images)
