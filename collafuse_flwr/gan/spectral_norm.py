"""Layers whose weights are divided by their largest singular value (Miyato et al., arXiv 1802.05957).

    W_sn = W / sigma(W),    sigma(W) = |W^T u|,    u = the first eigenvector of W W^T

with a kernel (filters, channels, k, k) as the matrix (filters, channels k k). sigma is computed exactly in every pass,
from the weights alone, and not by power iteration, which keeps a vector from one pass to the next: whoever holds the
layer has all that it needs, an average of weights is normalised like any weights, and a pass that is repeated gives
the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

#: Added to sigma, for weights that are all 0.
_FLOOR = 1e-12


class _Normalised(torch.autograd.Function):
    """W_sn = W / sigma, with gradient (G - <G, W_sn> u v^T) / sigma.

    One node, so that a pass adds one gradient to that of W: sums of gradients do not depend on how passes are divided.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        matrix = weight.detach().float().flatten(1)
        with torch.autocast("cpu" if weight.is_meta else weight.device.type, enabled=False):
            sigma, u, v = top_singular(matrix)
        result = weight / (sigma + _FLOOR)
        ctx.save_for_backward(result, sigma, torch.outer(u, v).view(weight.shape))
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        result, sigma, outer = ctx.saved_tensors
        gradient: Tensor = (grads[0] - (grads[0] * result).sum() * outer) / (sigma + _FLOOR)
        return gradient


def top_singular(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sigma, u and v of a matrix, exactly: from the eigenvectors of the smaller of W W^T and W^T W."""
    if len(matrix) > matrix.shape[1]:
        sigma, v, u = top_singular(matrix.T)
        return sigma, u, v
    u = torch.linalg.eigh(matrix @ matrix.T).eigenvectors[:, -1]
    image = matrix.T @ u
    sigma = torch.linalg.vector_norm(image)
    return sigma, u, image / (sigma + _FLOOR)


def normalised(weight: Tensor) -> Tensor:
    """W_sn of the weights of a layer, in their shape."""
    result: Tensor = _Normalised.apply(weight)
    return result


class SpectralConv2d(nn.Conv2d):
    """A convolution by W_sn."""

    def forward(self, x: Tensor) -> Tensor:
        """Args: x (n, channels, side, side)."""
        return conv2d(x, normalised(self.weight), self.bias, self.stride, self.padding)


class SpectralLinear(nn.Linear):
    """A linear layer by W_sn."""

    def forward(self, x: Tensor) -> Tensor:
        """Args: x (n, values)."""
        return linear(x, normalised(self.weight), self.bias)
