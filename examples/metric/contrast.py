"""A metric of one's own: by how much the contrast of generated images differs from that of real ones."""

from __future__ import annotations

from torch import Tensor

from collafuse_flwr.evaluation.metric import EvaluationMetric


def contrast_gap(real: Tensor, _: Tensor, generated: Tensor, __: Tensor) -> float | None:
    """|1 - mean deviation of generated images / that of real ones|; None where these have no contrast."""
    own, its = (images.flatten(1).std(dim=1).mean().item() for images in (real, generated))
    return abs(1 - its / own) if own else None


METRIC = EvaluationMetric("contrast_gap", "contrast", contrast_gap, better="lower", digits=3)
