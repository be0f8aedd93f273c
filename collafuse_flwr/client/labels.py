"""Class labels of handed-over samples, when the server was not told any."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from collafuse_flwr.data import ImageSet, to_model_space
from collafuse_flwr.diffusion import Schedule, diffuse

PROBE_ITERATIONS = 200


def draw_labels(schedule: Schedule, cut: int, images: ImageSet, x_k: Tensor, generator: torch.Generator) -> Tensor:
    """Draw y ~ p(y | x_k) for samples of an unconditional backbone, with a probe on the client's own noised images.

    An unconditional x_k already is of some class; a label drawn apart from it would contradict it. At the cut T it is
    pure noise, and labels follow the client's own frequencies.

    Args:
        schedule: the global schedule.
        cut: k.
        images: the client's training images.
        x_k: samples, shape (n, channels, size, size).
        generator: draws the probe's noise and the labels.

    Returns:
        Labels, shape (n,), int64.
    """
    if cut == schedule.timesteps or int(images.labels.min()) == int(images.labels.max()):
        rows = torch.randint(0, len(images), (len(x_k),), generator=generator)
        return images.labels[rows]
    # Slow to import, for a deployed client at every message, and most runs share their labels.
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    x_0 = to_model_space(images.images)
    noise = torch.randn(x_0.shape, generator=generator)
    zeros = torch.zeros(len(x_0), dtype=torch.int64)
    noised = diffuse(schedule, x_0, zeros, zeros + cut, noise)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=PROBE_ITERATIONS, C=0.1))
    probe.fit(noised.flatten(1).numpy(), images.labels.numpy())
    probabilities = torch.from_numpy(probe.predict_proba(x_k.flatten(1).numpy()))
    drawn = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
    return torch.from_numpy(np.asarray(probe.classes_, dtype=np.int64))[drawn]
