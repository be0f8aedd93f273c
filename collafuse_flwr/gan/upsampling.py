"""A transposed convolution whose bias is cheap to train on a CPU."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d


class Upsampling(nn.ConvTranspose2d):
    """A transposed convolution that adds its bias afterwards.

    Within it, the gradient of the bias takes longer on a CPU than that of the weights; afterwards it is a plain sum.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: ARG002 # torch's signature
        """Args: x (n, maps, side, side)."""
        assert self.bias is not None
        assert not isinstance(self.padding, str)
        y = conv_transpose2d(x, self.weight, None, self.stride, self.padding)
        return y.add_(self.bias.to(y.dtype).view(-1, 1, 1))
