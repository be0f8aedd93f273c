"""What the halves of honest clients send: true bounds where there are some, and else what most clients send.

A head that ends in batch normalisation and a rectifier makes h = r(gamma x + beta), where x has mean square at most 1
in each channel over a batch, and |r(u)| <= |u|. So whatever the images and the other weights are, in each channel

    sqrt(mean h^2) <= |gamma| + |beta|                                                           (Minkowski).

gamma and beta are those that a round began with, moved by at most rate max(1, (1 - beta_1) / sqrt(1 - beta_2)) in a
step of Adam (arXiv 1412.6980, 2.1). With noise of deviation sigma on d activations, bounded to norm sqrt(d) before,

    |h| <= sqrt(d) + sigma (sqrt(d) + 9)                                    but for one row of 10^17.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.gan.networks import Architecture, Cuts, DiscriminatorStem, GeneratorStem, block_name
from collafuse_flwr.gan.split_gan.ops import OptimConfig, Tensors

#: By how much rounding may pass a bound: bfloat16 has 8 bits.
ROUNDING = 1.02
#: The multiple of what most clients send that one may: in runs of six honest clients the most was 3.
FACTOR = 10.0
#: Of fewer clients none is outvoted.
LEAST_CLIENTS = 3


class HeadBounds:
    """What one client's heads can make in a round."""

    def __init__(
        self,
        architecture: Architecture,
        cuts: Cuts,
        name: tuple[int | str, ...],
        optim_config: OptimConfig,
        noise: float = 0.0,
    ) -> None:
        """Heads begin as `name` gives them (see `Architecture.build`); `noise` is sigma, 0 for none."""
        rate, (beta_1, beta_2) = optim_config.learning_rate, optim_config.betas
        # gamma and beta both move.
        self.per_step = 2 * rate * max(1.0, (1 - beta_1) / math.sqrt(1 - beta_2))
        self.noise, self.steps = noise, 0
        #: |gamma| + |beta| of each head, by what it sends, and their names among a client's weights.
        self.sizes: Tensors = {}
        self.names: dict[str, tuple[str, str]] = {}
        for net, what in (("generator", "gh"), ("discriminator", "dh")):
            last = cuts.head(net)[-1]
            block = architecture.build(net, range(last, last + 1), name)[last]
            if (norm := last_normalisation(block)) is not None and not (noise and what == "dh"):
                own = next(own for own, part in block.named_modules() if part is norm)
                self.names[what] = block_name(net, last, f"{own}.weight"), block_name(net, last, f"{own}.bias")
                self.sizes[what] = _sizes(norm.weight.detach(), norm.bias.detach())

    def begin(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """Begin a round with these weights or, without any, with what `steps` steps may have made of the first ones."""
        self.steps = 0 if weights else steps
        if weights:
            self.sizes = {what: _sizes(*(weights[own].cpu() for own in names)) for what, names in self.names.items()}

    def check(self, tensors: Tensors, step: int) -> None:
        """Hold what came in a step of the round, counted from 0, against the bounds.

        Raises:
            UploadError: no images can make as much of it.
        """
        for name, x in tensors.items():
            what = name.partition("_")[0]
            if what in self.sizes:
                most = self.sizes[what] + self.per_step * (self.steps + step + 1)
                excess = root_mean_square(x.float(), len(most)) / most
            elif what == "dh" and self.noise:
                rows = x.float().flatten(1)
                excess = rows.square().mean(1).sqrt() / (1 + self.noise * (1 + 9 / math.sqrt(rows.shape[1])))
            else:
                continue
            if not float(excess.max()) <= ROUNDING:
                raise UploadError(f"`activations.{name}` is {float(excess.max()):.3g} times what its network can make")


def root_mean_square(x: Tensor, channels: int) -> Tensor:
    """Of activations (n, channels, ...) over all but channels, or, where each value is one, over rows: (channels,)."""
    if x.shape[1] == channels:
        return x.transpose(0, 1).flatten(1).square().mean(1).sqrt()
    return x.flatten(1).square().mean(0).sqrt()


def last_normalisation(block: nn.Module) -> nn.BatchNorm1d | nn.BatchNorm2d | None:
    """The batch normalisation of which a block's output is rectified; None where it ends otherwise, or may."""
    if isinstance(block, GeneratorStem):
        return block.norm
    chain = block.down if isinstance(block, DiscriminatorStem) else block
    parts = list(chain) if isinstance(chain, nn.Sequential) else []
    while parts and isinstance(parts[-1], (nn.ReLU, nn.LeakyReLU)):
        parts.pop()
    last = parts[-1] if parts else None
    return last if isinstance(last, (nn.BatchNorm1d, nn.BatchNorm2d)) and last.affine else None


def capped(tensors: dict[int, Tensor]) -> dict[int, Tensor]:
    """Tensors of clients, of which none has more than FACTOR times the root mean square that most have.

    That is the median of all, the upper one of two: so fewer than half of the clients neither raise it above, nor lower
    it below, what the others send. Where most are 0 it is the least that is not. Larger ones are scaled down; of fewer
    than three clients none is.
    """
    sizes = {client: float(x.float().square().mean().sqrt()) for client, x in tensors.items()}
    present = sorted(size for size in sizes.values() if size)
    if len(sizes) < LEAST_CLIENTS or not present:
        return tensors
    most = FACTOR * (sorted(sizes.values())[len(sizes) // 2] or present[0])
    return {client: x * (most / sizes[client]) if sizes[client] > most else x for client, x in tensors.items()}


def _sizes(gamma: Tensor, beta: Tensor) -> Tensor:
    return gamma.abs() + beta.abs()
