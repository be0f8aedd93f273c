"""What makes noise on activations worth something, whatever weights the server has sent.

A row h of d activations of one image leaves as

    h' + sigma n,    h' = h min(1, sqrt(d) / |h|),    n ~ N(0, I),

so its signal-to-noise ratio |h'|^2 / (d sigma^2) is at most 1 / sigma^2. The block that makes h normalises by running
statistics, so that h hangs on its own image alone: by those of the batch, one image could show in all rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def clip_rows(h: Tensor) -> Tensor:
    """h' of activations (n, ...), in float32; rows that are not finite become zeros, and say no more than that noise.

    What overflows would hang on the image, and no noise covers an infinity.
    """
    rows = h.float().flatten(1)
    rows = torch.where(rows.isfinite().all(dim=1, keepdim=True), rows, 0.0)
    # By the largest value first, for squares of what weights can make would overflow.
    largest = rows.detach().abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    scaled = rows / largest
    norm = torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp(min=1.0)
    return (scaled * torch.minimum(largest, math.sqrt(rows.shape[1]) / norm)).view(h.shape)


@contextmanager
def running_statistics(module: nn.Module) -> Iterator[None]:
    """Batch normalisation inside takes its running statistics, and leaves them as they are."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    modes = [part.training for part in norms]
    for part in norms:
        part.eval()
    try:
        yield
    finally:
        for part, training in zip(norms, modes, strict=True):
            part.train(training)
