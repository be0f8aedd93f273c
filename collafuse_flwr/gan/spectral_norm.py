"""Layers whose weights are divided by their largest singular value (Miyato et al., arXiv 1802.05957).

    W_sn = W / sigma(W),    sigma(W) = |W^T u|,    u = the first eigenvector of W W^T

with a kernel (filters, channels, k, k) as the matrix (filters, channels k k). sigma is computed exactly in every pass,
from the weights alone, and not by power iteration, which keeps a vector from one pass to the next: whoever holds the
layer has all that it needs, an average of weights is normalised like any weights, and a pass that is repeated gives
the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

#: Added to sigma, for weights that are all 0.
_FLOOR = 1e-12


def spectral_norm(weight: Tensor) -> Tensor:
    """sigma of weights (rows, ...), a scalar in float32, whose gradient is u v^T."""
    with torch.autocast("cpu" if weight.is_meta else weight.device.type, enabled=False):
        matrix = weight.float().flatten(1)
        if len(matrix) > matrix.shape[1]:
            matrix = matrix.T
        kept = matrix.detach()
        u = torch.linalg.eigh(kept @ kept.T).eigenvectors[:, -1]
        sigma: Tensor = torch.linalg.vector_norm(matrix.T @ u)
    return sigma


class SpectralConv2d(nn.Conv2d):
    """A convolution by W_sn."""

    def forward(self, x: Tensor) -> Tensor:
        """Args: x (n, channels, side, side)."""
        return conv2d(x, self.normalised_weight(), self.bias, self.stride, self.padding)

    def normalised_weight(self) -> Tensor:
        """W_sn."""
        return _normalised(self.weight)


class SpectralLinear(nn.Linear):
    """A linear layer by W_sn."""

    def forward(self, x: Tensor) -> Tensor:
        """Args: x (n, values)."""
        return linear(x, self.normalised_weight(), self.bias)

    def normalised_weight(self) -> Tensor:
        """W_sn."""
        return _normalised(self.weight)


def _normalised(weight: Tensor) -> Tensor:
    return weight / (spectral_norm(weight) + _FLOOR)
