"""What trains a block beside its weights, so that it can change hands: Adam's moments, and its average over steps.

Each has the name of its weight below one of KINDS, as in exp_avg:generator.1.0.weight. Of Adam (arXiv 1412.6980) with
gradients g_i, by Cauchy-Schwarz,

    |m_t| = (1 - b1) |sum_i b1^(t-i) g_i|  <=  (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2))  sqrt(v_t),

so moments that train a block further can be told from those that would blow it up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.gan.networks import NETS, Architecture, Blocks, Cuts, block_name, group_by_block
from collafuse_flwr.gan.split_gan.client_half import PARTS, ClientHalf
from collafuse_flwr.gan.split_gan.ops import Tensors
from collafuse_flwr.gan.split_gan.server_half import ServerHalf
from collafuse_flwr.gan.split_gan.weight_average import WeightAverage

#: Adam's two moments and its count of steps, and the average of weights over steps.
KINDS = ("exp_avg", "exp_avg_sq", "step", "ema")
#: Rounding of float32, and what Adam's epsilon makes nothing of.
SLACK, TINY = 1.01, 1e-12


@dataclass(frozen=True, eq=False)
class Piece:
    """Neighbouring blocks of a net that train together; `average` is absent where none is kept."""

    net: str
    blocks: Blocks
    optimiser: torch.optim.Optimizer
    average: WeightAverage | None

    def moments(self) -> Tensors:
        """The moments of all blocks that have taken a step."""
        kept: Tensors = {}
        for name, weight in self.blocks.named_parameters():
            for kind, value in self.optimiser.state.get(weight, {}).items():
                # A count is whole, however Adam keeps it.
                kept[self._named(kind, name)] = value.long() if kind == "step" else value
        averaged = self.average.tensors if self.average is not None else {}
        return kept | {self._named("ema", name): value for name, value in averaged.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up those of its own blocks among some moments; others go on with what they have."""
        for name, weight in self.blocks.named_parameters():
            own = {kind: tensors[key] for kind in KINDS[:3] if (key := self._named(kind, name)) in tensors}
            if own:
                state = {kind: torch.empty_like(weight).copy_(own[kind]) for kind in KINDS[:2]}
                self.optimiser.state[weight] = state | {"step": own["step"].to(weight.device, torch.float32)}
        if self.average is not None:
            averaged = {n: tensors[k] for n in self.blocks.state_dict() if (k := self._named("ema", n)) in tensors}
            self.average.take(averaged)

    def _named(self, kind: str, name: str) -> str:
        """blocks.1.0.weight -> exp_avg:generator.1.0.weight."""
        return f"{kind}:{self.net}.{name.removeprefix('blocks.')}"


def pieces(half: ClientHalf | ServerHalf) -> Iterator[Piece]:
    """All blocks of a half, piece by piece."""
    if isinstance(half, ServerHalf):
        for net, blocks in half.nets.items():
            yield Piece(net, blocks, half.optimisers[net], half.average if net == "generator" else None)
        return
    for part, blocks in half.parts.items():
        net = next(net for net in NETS if net[0] == part[0])
        yield Piece(net, blocks, half.optimisers[part], half.averages.get(part))


def every_moment(half: ClientHalf | ServerHalf) -> Tensors:
    """The moments of all blocks of a half."""
    return {name: value for piece in pieces(half) for name, value in piece.moments().items()}


def block_moments(half: ClientHalf | ServerHalf, names: Mapping[str, Tensor]) -> Tensors:
    """The moments that a half has, of those in `names`."""
    return {name: value for name, value in every_moment(half).items() if name in names}


def load_block_moments(half: ClientHalf | ServerHalf, tensors: Mapping[str, Tensor]) -> None:
    """Let blocks of a half go on with the moments that came with them."""
    for piece in pieces(half):
        piece.load(tensors)


def cuts_of(state: Mapping[str, Tensor]) -> Cuts:
    """The cuts that a client had when `ClientHalf.state` gave this: every part has a block beside the extra ones."""
    indices: dict[str, set[str]] = {part: set() for part in PARTS}
    for name in state:
        part, _, rest = name.partition(".blocks.")
        if part in indices:
            indices[part].add(rest.partition(".")[0])
    return Cuts(*(len(indices[part]) - 1 for part in PARTS))


def leaving(before: Cuts, after: Cuts, architecture: Architecture) -> list[tuple[str, int]]:
    """The blocks, by net and index, that a client with cuts `before` keeps and with cuts `after` does not."""
    blocks = []
    for net in NETS:
        count = len(getattr(architecture, net))
        own, still = ({*cuts.head(net), *cuts.tail(net, count)} for cuts in (before, after))
        blocks += [(net, index) for index in sorted(own - still)]
    return blocks


def moments_template(architecture: Architecture, blocks: list[tuple[str, int]], *, averaged: bool) -> Tensors:
    """The moments of some blocks, by net and index, without memory: names, shapes and types."""
    template: Tensors = {}
    for net, index in blocks:
        with torch.device("meta"):
            block = getattr(architecture, net)[index].build()
            step = torch.zeros((), dtype=torch.int64)
        for name, weight in block.named_parameters():
            own = block_name(net, index, name)
            template |= {f"{kind}:{own}": weight.detach() for kind in KINDS[:2]} | {f"step:{own}": step}
        if averaged and net == "generator":
            template |= {f"ema:{block_name(net, index, name)}": value for name, value in block.state_dict().items()}
    return template


def check_moments(tensors: Mapping[str, Tensor], betas: tuple[float, float]) -> None:
    """Hold Adam's moments, whose names, shapes and types are right, against what gradients can make.

    Raises:
        UploadError: a variance or a count is negative, or a mean is larger than its variance allows.
    """
    beta_1, beta_2 = betas
    most = SLACK * (1 - beta_1) / math.sqrt((1 - beta_2) * (1 - beta_1**2 / beta_2))
    for name, mean in tensors.items():
        kind, _, own = name.partition(":")
        if kind == "step" and int(mean) < 0:
            raise UploadError(f"`weights.{name}` is a count of steps, and must not be negative")
        if kind == "exp_avg":
            square = tensors[f"exp_avg_sq:{own}"]
            if bool((square < 0).any()) or bool((mean.abs() > most * square.clamp(min=0).sqrt() + TINY).any()):
                raise UploadError(f"`weights.{name}` is larger than any gradients with its second moments make it")


def of_kind(tensors: Mapping[str, Tensor], kind: str, net: str) -> dict[int, dict[str, Tensor]]:
    """Moments of one kind and net, block by block."""
    return group_by_block(tensors, f"{kind}:{net}")
