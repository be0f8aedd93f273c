"""Training several small networks of one shape as one: their weights are stacked, and each step is one call for all.

What a step costs beside its arithmetic is then paid once for all of them. Each network has its own draws, gradients,
clipping, Adam moments, average and learning rate, as in `train`; sums are formed in another order, so that results
differ from those of `train` in the last bits of float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from collafuse_flwr.diffusion.folded import Folded, can_fold
from collafuse_flwr.diffusion.loss import Objective, bounded_mean, denoising_loss
from collafuse_flwr.diffusion.parametrization import Denoise
from collafuse_flwr.diffusion.schedule import Schedule
from collafuse_flwr.diffusion.train import (
    BatchSource,
    TimestepRange,
    TrainResult,
    TrainState,
    draw_batch,
    epoch_batches,
    train,
)


@dataclass(frozen=True)
class TrainJob:
    """What is to be trained: arguments of `train`, by their names there."""

    state: TrainState
    denoise: Denoise
    source: BatchSource
    schedule: Schedule
    objective: Objective
    steps_range: TimestepRange
    batch_size: int
    num_steps: int
    learning_rate: Callable[[float], float]
    generator: torch.Generator
    penalty: Callable[[], Tensor] | None = None
    label_dropout: float = 0.0
    flip: bool = False
    max_loss: float = math.inf

    def run(self) -> TrainResult:
        """Train by itself."""
        return train(**vars(self))

    def stack_key(self) -> Hashable:
        """Equal for jobs that can be trained as one; None for one that cannot be: see `can_fold`."""
        network = self.state.network
        if not self.num_steps or self.steps_range.official or not can_fold(network):
            return None
        x, _, labels = self.source.batch(torch.zeros(1, dtype=torch.int64, device=self.generator.device))
        shapes = x.shape, None if labels is None else labels.shape
        chain = tuple(self.schedule.alpha_bar.tolist()), self.objective
        # Its text names the shapes of all layers, and what they are set to.
        return str(network), self.generator.device, self.batch_size, shapes, chain


#: What clients have their jobs done by: one after another, unless a simulation lets them wait for each other.
TRAINER: ContextVar[Callable[[TrainJob], TrainResult]] = ContextVar("TRAINER", default=TrainJob.run)


def train_all(jobs: Sequence[TrainJob]) -> list[TrainResult | Exception]:
    """Do jobs, as one those that can be; the result of each, or what went wrong with it."""
    groups: dict[Hashable, list[int]] = {}
    for number, job in enumerate(jobs):
        key = None
        # What is wrong with it shows again where it is done by itself.
        with suppress(Exception):
            key = job.stack_key()
        groups.setdefault(number if key is None else key, []).append(number)
    done: dict[int, TrainResult | Exception] = {}
    for group in groups.values():
        done.update(zip(group, _train_group([jobs[number] for number in group]), strict=True))
    return [done[number] for number in range(len(jobs))]


def _train_group(jobs: Sequence[TrainJob]) -> list[TrainResult | Exception]:
    """Do jobs as one; or where that fails, be it by a single one of them, one after another."""
    before = [job.generator.get_state() for job in jobs]
    if len(jobs) > 1:
        try:
            return list(train_stacked(jobs))
        except Exception:
            for job, state in zip(jobs, before, strict=True):
                job.generator.set_state(state)
    return [_attempt(job) for job in jobs]


def _attempt(job: TrainJob) -> TrainResult | Exception:
    try:
        return job.run()
    except Exception as error:
        return error


def train_stacked(jobs: Sequence[TrainJob]) -> list[TrainResult]:
    """Do jobs of equal `stack_key` as one; their states change once all is done, and not at all after an error.

    Those with fewer steps drop out when they are done.
    """
    order = sorted(range(len(jobs)), key=lambda number: -jobs[number].num_steps)
    ranked = [jobs[number] for number in order]
    stack = _Stack(ranked)
    batches = [epoch_batches(len(job.source), job.batch_size, job.num_steps, job.generator) for job in ranked]
    totals = torch.zeros(len(jobs), device=ranked[0].generator.device)
    with stack.lent():
        for done in range(ranked[0].num_steps):
            active = sum(job.num_steps > done for job in ranked)
            totals[:active] += stack.step([next(own) for own in batches[:active]], done)
    stack.hand_back()
    results = dict(zip(order, totals.tolist(), strict=True))
    return [
        TrainResult(results[number] / job.num_steps, job.num_steps, job.num_steps * job.batch_size)
        for number, job in enumerate(jobs)
    ]


class _Strung(nn.Module):
    """A network's weights in one row of a stack."""

    def __init__(self, row: Tensor) -> None:
        super().__init__()
        self.row = nn.Parameter(row)


class _Called(nn.Module):
    """A network with its forward call, so that `functional_call` can give it other weights."""

    def __init__(self, network: nn.Module, denoise: Denoise) -> None:
        super().__init__()
        self.network, self.denoise = network, denoise

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """The prediction of the network."""
        return self.denoise(x_t, t, labels)


class _Stack:
    """The weights of all jobs as rows of one tensor, each with Adam and average of its own."""

    def __init__(self, jobs: Sequence[TrainJob]) -> None:
        """Take up the states of jobs, those with most steps first."""
        self.jobs, first = jobs, jobs[0].state
        self.called = _Called(first.network, jobs[0].denoise)
        self.names = [f"network.{name}" for name, _ in first.network.named_parameters()]
        self.shapes = [p.shape for p in first.parameters]
        with torch.no_grad():
            self.rows = torch.stack([_string(job.state.parameters) for job in jobs])
        self.states = [_strung(job.state, row) for job, row in zip(jobs, self.rows, strict=True)]
        for job in jobs:
            job.state.network.train()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Meanwhile the networks of jobs with a penalty have the weights of their rows."""
        lent = [(job, row) for job, row in zip(self.jobs, self.rows, strict=True) if job.penalty is not None]
        own = [(p, p.data) for job, _ in lent for p in job.state.parameters]
        try:
            for job, row in lent:
                for p, part in zip(job.state.parameters, self._parts(row), strict=True):
                    p.data = part
            yield
        finally:
            for p, data in own:
                p.data = data

    def step(self, rows: Sequence[Tensor], done: int) -> Tensor:
        """A step of the first jobs, one for each batch of row numbers, and what each reports as its loss."""
        jobs, states = self.jobs[: len(rows)], self.states[: len(rows)]
        errors, gradients = self._descend(jobs, rows)
        for job, state, gradient in zip(jobs, states, gradients, strict=True):
            if job.penalty is not None:
                gradient.add_(_string(torch.autograd.grad(job.penalty(), job.state.parameters)))
            state.apply_gradients([gradient], job.learning_rate(done / job.num_steps), clip=True)
        return torch.stack([bounded_mean(own, job.max_loss) for own, job in zip(errors, jobs, strict=True)])

    def hand_back(self) -> None:
        """Give the states of the jobs what has become of them."""
        for job, strung in zip(self.jobs, self.states, strict=True):
            tensors = strung.state_dict()
            weights = dict(zip(self.names, self._parts(tensors.pop("network.row")), strict=True))
            steps = {"adam.step": tensors["adam.step"].expand(len(self.names))}
            job.state.load({**tensors, **weights, **steps})

    def _descend(self, jobs: Sequence[TrainJob], rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Squared errors, (jobs, batch, ...), and the gradients of their means, (jobs, values)."""
        drawn = [
            draw_batch(job.source, own, job.steps_range, job.generator, label_dropout=job.label_dropout, flip=job.flip)
            for job, own in zip(jobs, rows, strict=True)
        ]
        x, start, t, noise = (_interleaved(parts) for parts in list(zip(*drawn, strict=True))[:4])
        labels = [own for *_, own in drawn if own is not None]
        weights = [part.detach().requires_grad_() for part in self._parts(self.rows[: len(jobs)])]
        first, named = jobs[0], dict(zip(self.names, weights, strict=True))

        def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            with Folded(len(jobs)):
                output: Tensor = functional_call(self.called, named, (x_t, t, labels))
            return output

        inputs = first.schedule, first.objective, denoise, x, start, t, noise, _interleaved(labels) if labels else None
        errors = denoising_loss(*inputs, reduction="none").unflatten(0, (-1, len(jobs))).transpose(0, 1)
        gradients = torch.autograd.grad(errors.flatten(1).mean(1).sum(), weights)
        return errors.detach(), torch.cat([own.flatten(1) for own in gradients], 1)

    def _parts(self, strung: Tensor) -> list[Tensor]:
        """Views of the parameters in what was strung together, (..., values)."""
        parts = strung.split([shape.numel() for shape in self.shapes], -1)
        return [part.view(*strung.shape[:-1], *shape) for part, shape in zip(parts, self.shapes, strict=True)]


def _interleaved(batches: Sequence[Tensor]) -> Tensor:
    """A batch of several in the order of rows that `Folded` takes."""
    return torch.stack(list(batches), 1).flatten(0, 1)


def _string(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([own.reshape(-1) for own in tensors])


def _strung(state: TrainState, row: Tensor) -> TrainState:
    """A state that goes on from another, of a network whose one parameter is the row.

    Raises:
        ValueError: not all parameters have taken as many steps.
    """
    tensors = {name: value for name, value in state.state_dict().items() if not name.startswith("network.")}
    steps = tensors["adam.step"]
    if not bool((steps == steps[0]).all()):
        raise ValueError("parameters that have taken different numbers of steps")
    strung = TrainState(_Strung(row), state.ema_decay)
    strung.load({**tensors, "adam.step": steps[:1], "network.row": row})
    return strung
