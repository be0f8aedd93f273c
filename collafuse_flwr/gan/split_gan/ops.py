"""What both halves of a split GAN need: optimisers, frozen statistics, and tensors named per phase."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from collafuse_flwr.core.runtime import Runtime

ModuleT = TypeVar("ModuleT", bound=nn.Module)

#: Tensors by name, as they cross a cut.
Tensors = dict[str, Tensor]

#: The six round trips of a batch, in order, with what goes down and what comes up in each. `grad_gh` belongs to the
#: batch before, and is missing in the first.
PHASES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "latent": (("grad_gh",), ("gh",)),
    "fake": (("gt",), ("dh_fake", "dh_real")),
    "judge": (("dt_fake", "dt_real"), ("grad_dt_fake", "grad_dt_real")),
    "discriminator": (("grad_dh_fake", "grad_dh_real"), ("dh",)),
    "score": (("dt",), ("grad_dt",)),
    "generator": (("grad_dh",), ("grad_gt",)),
}

#: Passes of a batch through each net, in multiples of a forward pass: forwards, and back to weights and inputs. The
#: discriminator sees fake and real images, and once more fake ones whose gradient goes to the images alone.
PASSES = {"generator": 3, "discriminator": 8}


@dataclass(frozen=True)
class OptimConfig:
    """How networks are optimised and where: Adam's rate and betas, device and arithmetic.

    `max_loss` is what a logit counts as at most, either way, in the losses that are reported. `loss_kind` is bce or
    hinge; `ema` is the decay of the average of the generator's weights, 0 for none.
    """

    runtime: Runtime
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    max_loss: float = math.inf
    loss_kind: str = "bce"
    ema: float = 0.0

    def loss(self, logits: Tensor, target: float, *, fool: bool = False) -> Tensor:
        """The mean loss of logits that should say `target`, 1 for real or 0; `fool`: it is the generator's.

        bce:    -log sigmoid(+-l)
        hinge:  max(0, 1 -+ l),  the generator's -l        (arXiv 1705.02894)
        """
        if self.loss_kind == "bce":
            return cross_entropy(logits, target)
        return _hinge(logits, target, fool=fool).mean()

    def reported(self, logits: Iterable[Tensor], *targets: float, fool: bool = False) -> float:
        """The sum of the losses of logits, each with its target, as it is reported.

        One row of n then moves it by 2 max_loss / n at most, whatever the network makes of it.
        """
        bounded = [own.detach().clamp(-self.max_loss, self.max_loss) for own in logits]
        if math.isfinite(self.max_loss):
            bounded = [own.nan_to_num(nan=self.max_loss) for own in bounded]
        if self.loss_kind == "hinge":
            rows = [_hinge(own, target, fool=fool) for own, target in zip(bounded, targets, strict=True)]
            losses = [own.clamp(max=self.max_loss).mean() for own in rows]
        else:
            losses = [cross_entropy(own, target) for own, target in zip(bounded, targets, strict=True)]
        return sum(losses[1:], start=losses[0]).item()

    def place(self, module: ModuleT) -> ModuleT:
        """A module where it is to be trained; channels last, which convolutions are faster with."""
        module.to(self.runtime.device).to(memory_format=torch.channels_last)
        return module.train()

    def optimiser(self, module: nn.Module) -> torch.optim.Adam:
        """Adam over a module's parameters."""
        return torch.optim.Adam(module.parameters(), self.learning_rate, self.betas, fused=True)


def step(optimiser: torch.optim.Optimizer) -> None:
    """Take a step with the gradients there are, and forget them."""
    optimiser.step()
    optimiser.zero_grad()


def adam_state(optimiser: torch.optim.Optimizer, prefix: str) -> Tensors:
    """Adam's moments by name, below a prefix."""
    return {
        f"{prefix}{index}.{name}": torch.as_tensor(value)
        for index, own in optimiser.state_dict()["state"].items()
        for name, value in own.items()
    }


def load_adam_state(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Take up what `adam_state` gave; without any the optimiser stays fresh.

    Each comes to lie in memory as its weights do: the fused step goes through both in the order of their bytes.
    """
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            index, own = name.removeprefix(prefix).split(".")
            like = weights[int(index)]
            state.setdefault(int(index), {})[own] = torch.empty_like(like).copy_(value) if value.dim() else value
    if state:
        optimiser.load_state_dict(optimiser.state_dict() | {"state": state})


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Run a module once more without its running statistics moving: other buffers stand in for the time."""
    holders = [part for part in module.modules() if part._buffers]
    kept = [dict(part._buffers) for part in holders]
    for part in holders:
        part._buffers.update({name: None if b is None else b.clone() for name, b in part._buffers.items()})
    try:
        yield
    finally:
        for part, buffers in zip(holders, kept, strict=True):
            part._buffers.update(buffers)


@contextmanager
def without_weight_gradients(module: nn.Module) -> Iterator[None]:
    """What is computed inside gives gradients to its inputs alone."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def cross_entropy(logits: Tensor, target: float) -> Tensor:
    """BCE of logits with one target, 0 or 1, for all of them."""
    return binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits, target, dtype=torch.float32))


def _hinge(logits: Tensor, target: float, *, fool: bool) -> Tensor:
    margin = logits.float() * (2 * target - 1)
    return -margin if fool else torch.relu(1 - margin)


def requires_grad_leaf(x: Tensor) -> Tensor:
    """A received tensor, whose gradient is wanted."""
    return x.detach().requires_grad_()


def gradient(x: Tensor) -> Tensor:
    """The gradient that has reached a leaf."""
    assert x.grad is not None
    return x.grad
