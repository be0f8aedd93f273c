"""What a network predicts, and how one prediction is turned into another, on the global chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from collafuse_flwr.diffusion.schedule import Schedule

Prediction = Literal["epsilon", "v_prediction"]

#: A label that was dropped; of attributes, every number of the row.
DROPPED = -1

#: A network's forward call: (x_t, t in 1..T, labels or None) -> prediction of the shape of x_t. Throughout, labels are
#: what the network is conditioned on: classes, int64 (n,), or attributes, each 0 or 1, (n, A); None: nothing.
Denoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def to_noise(schedule: Schedule, prediction: Prediction, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """noise_hat of the global chain; for v it is sqrt(alpha_bar) v + sqrt(1 - alpha_bar) x_t (arXiv 2202.00512)."""
    if prediction == "epsilon":
        return output
    alpha_bar = schedule.at(t)
    return alpha_bar.sqrt() * output + (1 - alpha_bar).sqrt() * x_t


def to_image(schedule: Schedule, prediction: Prediction, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """x_0_hat of the global chain; for v it is sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v (arXiv 2202.00512)."""
    alpha_bar = schedule.at(t)
    if prediction == "epsilon":
        return (x_t - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()
    return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * output
