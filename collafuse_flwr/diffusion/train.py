"""Training a denoiser on part of the chain: the same loop for the backbone and for every client."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from collafuse_flwr.diffusion.guidance import drop_labels
from collafuse_flwr.diffusion.loss import Objective, bounded_mean, denoising_loss, official_loss, stratified_steps
from collafuse_flwr.diffusion.parametrization import Denoise
from collafuse_flwr.diffusion.schedule import Schedule

#: Adam's betas in the authors' settings.
ADAM_BETAS = (0.9, 0.99)
MAX_GRADIENT_NORM = 1.0
WARMUP_STEPS = 20


class BatchSource(Protocol):
    """Where batches come from: x at step `start`, labels or None, all of length len(rows)."""

    def __len__(self) -> int: ...

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The rows as (x, start, labels)."""
        ...


class TrainState:
    """A network with its Adam moments and its averaged weights (EMA, decay min(d, (1 + s) / (10 + s)) at step s)."""

    def __init__(self, network: nn.Module, ema_decay: float) -> None:
        self.network, self.ema_decay = network, ema_decay
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(self.parameters, betas=ADAM_BETAS, fused=True)
        self.average = [p.detach().clone() for p in self.parameters]
        self.steps = 0

    def optimizer_step(self, loss: Tensor, learning_rate: float) -> None:
        """One Adam step on the loss, with clipped gradients, and one step of the average."""
        loss.backward()
        self._clip()
        self._step(learning_rate)

    def apply_gradients(self, gradients: Sequence[Tensor], learning_rate: float, *, clip: bool = False) -> None:
        """The same along gradients that were made elsewhere, one for each of `parameters`: as they are, or clipped."""
        for p, gradient in zip(self.parameters, gradients, strict=True):
            p.grad = gradient
        if clip:
            self._clip()
        self._step(learning_rate)

    def _clip(self) -> None:
        nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)

    def _step(self, learning_rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate * min(1.0, (self.steps + 1) / WARMUP_STEPS)
        self.optimiser.step()
        self.optimiser.zero_grad()
        decay = min(self.ema_decay, (1 + self.steps) / (10 + self.steps)) if self.steps else 0.0
        get_ema_multi_avg_fn(decay)(self.average, [p.detach() for p in self.parameters], None)
        self.steps += 1

    def ema_state_dict(self) -> dict[str, Tensor]:
        """The network's state dict with averaged in place of trained weights."""
        names = [name for name, p in self.network.named_parameters() if p.requires_grad]
        averaged = dict(zip(names, self.average, strict=True))
        return {name: averaged.get(name, value).detach() for name, value in self.network.state_dict().items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on, as named tensors (for safetensors): the network's own, the rest strung together.

        A client writes them after every round; hundreds of small tensors took three times as long as four large ones.
        """
        state = {f"network.{name}": value.detach().contiguous() for name, value in self.network.state_dict().items()}
        adam_state = [self._moments(p) for p in self.parameters]
        state["adam.step"] = torch.tensor([float(own["step"]) for own in adam_state])
        for name in ("exp_avg", "exp_avg_sq"):
            state[f"adam.{name}"] = torch.cat([own[name].reshape(-1) for own in adam_state])
        state["average"] = torch.cat([value.reshape(-1) for value in self.average])
        state["steps"] = torch.tensor(self.steps)
        return state

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` returned, so that training goes on with the same bits."""
        weights = {n.removeprefix("network."): v for n, v in tensors.items() if n.startswith("network.")}
        self.network.load_state_dict(weights)
        self.steps = int(tensors["steps"])
        for own, value in zip(self.average, self.like_parameters(tensors["average"]), strict=True):
            own.copy_(value)
        parts = {name: self.like_parameters(tensors[f"adam.{name}"]) for name in ("exp_avg", "exp_avg_sq")}
        adam_state = {
            i: {"step": step.clone()} | {name: values[i] for name, values in parts.items()}
            for i, step in enumerate(tensors["adam.step"])
        }
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": adam_state})

    def _moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Adam's memory of a parameter; one that has had no gradient yet has that of step 0."""
        if parameter in self.optimiser.state:
            own: dict[str, Tensor] = self.optimiser.state[parameter]
            return own
        zeros = torch.zeros_like(parameter)
        return {"step": zeros.new_zeros(()), "exp_avg": zeros, "exp_avg_sq": zeros}

    def like_parameters(self, strung: Tensor) -> list[Tensor]:
        """Cut what was strung together into the parameters' shapes; each part has memory of its own."""
        parts = strung.split([p.numel() for p in self.parameters])
        return [part.view_as(p).clone() for part, p in zip(parts, self.parameters, strict=True)]

    def proximal(self, mu: float) -> Callable[[], Tensor]:
        """mu / 2 |w - w_0|^2 with w_0 the weights as they are now (FedProx, arXiv 1812.06127, eq. 2)."""
        start = [p.detach().clone() for p in self.parameters]

        def penalty() -> Tensor:
            pairs = zip(self.parameters, start, strict=True)
            return mu / 2 * torch.stack([(p - p_0).square().sum() for p, p_0 in pairs]).sum()

        return penalty

    def init_from(self, weights: dict[str, Tensor]) -> None:
        """Begin at the given weights wherever name and shape agree, with fresh moments and average."""
        own = self.network.state_dict()
        shared = {name: v for name, v in weights.items() if name in own and own[name].shape == v.shape}
        self.network.load_state_dict({**own, **shared})
        for shadow, p in zip(self.average, self.parameters, strict=True):
            shadow.copy_(p.detach())


@dataclass(frozen=True)
class TimestepRange:
    """The steps that a network is trained on: start + 1..last, where each row of the source has its own start.

    Steps up to `above` are left out. Where `lasts` is not None, shape (rows of the source,), int64, it is the last step
    of each row.
    """

    last: int
    official: bool = False
    above: int = 0
    lasts: Tensor | None = None


@dataclass(frozen=True)
class TrainResult:
    """What a stretch of training did: its mean loss (nan without steps), optimiser steps and image updates.

    `waited` are the seconds of it that others were at work.
    """

    loss: float
    steps: int
    images: int
    waited: float = 0.0


def train(
    state: TrainState,
    denoise: Denoise,
    source: BatchSource,
    *,
    schedule: Schedule,
    objective: Objective,
    steps_range: TimestepRange,
    batch_size: int,
    num_steps: int,
    learning_rate: Callable[[float], float],
    generator: torch.Generator,
    on_step: Callable[[int], None] = lambda _: None,
    penalty: Callable[[], Tensor] | None = None,
    label_dropout: float = 0.0,
    flip: bool = False,
    max_loss: float = math.inf,
    loss_scale: float = 1.0,
) -> TrainResult:
    """Take `num_steps` Adam steps of the denoising loss on shuffled batches of the source.

    Args:
        state: the network and its optimiser, changed in place.
        denoise: the network's forward call.
        source: where the images or uploads come from.
        schedule: the global schedule.
        objective: prediction and weighting.
        steps_range: the steps t to train.
        batch_size: rows in a batch.
        num_steps: optimiser steps.
        learning_rate: the rate at a fraction in [0, 1) of this stretch.
        generator: draws rows, t, noise, and what is mirrored or dropped; on the device of the source's tensors.
        on_step: called with the number of steps done.
        penalty: added to the loss that is descended, not to the one that is reported.
        label_dropout: share of the rows whose labels are dropped.
        flip: whether x is mirrored at random: a noised image that is mirrored is the mirror image, noised.
        max_loss: what the loss of an image counts as at most in the one that is reported.
        loss_scale: what the loss is multiplied by (`loss.loss_scale`).
    """
    state.network.train()
    total = torch.zeros((), device=generator.device)
    for done, rows in enumerate(epoch_batches(len(source), batch_size, num_steps, generator)):
        drawn = draw_batch(source, rows, steps_range, generator, label_dropout=label_dropout, flip=flip)
        x, start, t, noise, labels = drawn
        if steps_range.official:
            errors = official_loss(schedule, objective, denoise, x, t, noise, labels, reduction="none")
        else:
            errors = denoising_loss(schedule, objective, denoise, x, start, t, noise, labels, reduction="none")
        loss = loss_scale * errors.mean()
        state.optimizer_step(loss if penalty is None else loss + penalty(), learning_rate(done / num_steps))
        total += loss_scale * bounded_mean(errors.detach(), max_loss)
        on_step(done + 1)
    return TrainResult(total.item() / num_steps if num_steps else math.nan, num_steps, num_steps * batch_size)


def draw_batch(
    source: BatchSource,
    rows: Tensor,
    steps_range: TimestepRange,
    generator: torch.Generator,
    *,
    label_dropout: float,
    flip: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """x, start, t, noise and labels of the rows, mirrored and dropped at random; arguments as in `train`."""
    x, start, labels = source.batch(rows)
    if flip:
        x = random_hflip(x, bernoulli_mask(len(x), 0.5, generator))
    if label_dropout and labels is not None:
        labels = drop_labels(labels, bernoulli_mask(len(labels), label_dropout, generator))
    last = steps_range.last if steps_range.lasts is None else steps_range.lasts[rows]
    t = stratified_steps(start.clamp(min=steps_range.above) + 1, last, generator)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    return x, start, t, noise, labels


def epoch_batches(rows: int, batch_size: int, num_batches: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of row numbers, each row once per pass; a batch may straddle two passes, so all are full."""
    left = torch.empty(0, dtype=torch.int64, device=generator.device)
    for _ in range(num_batches):
        while len(left) < batch_size:
            left = torch.cat([left, torch.randperm(rows, generator=generator, device=generator.device)])
        yield left[:batch_size]
        left = left[batch_size:]


def bernoulli_mask(count: int, share: float, generator: torch.Generator) -> Tensor:
    """True for each of `count` rows with probability `share`."""
    return torch.rand(count, generator=generator, device=generator.device) < share


def random_hflip(x: Tensor, chosen: Tensor) -> Tensor:
    """x, shape (n, channels, height, width), with those mirrored left to right for which `chosen`, (n,), is true."""
    return torch.where(chosen.view(-1, 1, 1, 1), x.flip(-1), x)


def cosine_rate(learning_rate: float, progress: float) -> float:
    """Half a cosine from `learning_rate` at progress 0 down to a hundredth of it at 1."""
    return learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
