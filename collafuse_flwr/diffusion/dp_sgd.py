"""Differentially private training: DP-SGD (Abadi et al. 2016, arXiv 1607.00133) of a denoiser on its own images.

An image belongs to a step's batch with probability q = b / n, whatever the others do (Poisson); with g_i the gradient
of its loss, the step goes along (sum_i g_i min(1, C / |g_i|) + N(0, sigma^2 C^2)) / b. One image moves the sum by at
most C, and what is made of it (Adam's moments, averaged weights, samples) is post-processing. An image whose loss or
gradient is not finite adds nothing.

g_i come from torch.func: vmap of grad over the loss that everybody trains on. It takes any module that keeps nothing of
what it is called on, a user's own included, where Opacus wraps the network (its weights change their names, by which
they are sent and averaged) and needs a rule for every kind of layer.

Floats are not real numbers, which three things answer. Norms and sums are of float64, in which no square of a float32
overflows, or underflows and passes unclipped, and in which the rounding of a sum is far below its noise. The noise is
of float64, too, and the noisy sum is rounded to multiples of 2^-12 sigma C: its low bits would tell which sum had been
noised (Mironov, CCS 2012). And where draws follow from a secret, so that a run can be repeated, the noise follows from
the sum that it hides as well: no two sums that differ, be it by another precision, ever have the same noise.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.grid import on_grid
from collafuse_flwr.core.rng import keyed_generator, named_generator
from collafuse_flwr.diffusion.guidance import drop_labels
from collafuse_flwr.diffusion.loss import Objective, denoising_loss
from collafuse_flwr.diffusion.parametrization import Denoise
from collafuse_flwr.diffusion.schedule import Schedule
from collafuse_flwr.diffusion.train import BatchSource, TrainResult, TrainState, random_hflip

#: Numbers in the gradients of single images that are held at once (64 MB); one image's may be more.
_HELD_VALUES = 2**24


@dataclass(frozen=True)
class DpSgdConfig:
    """C and sigma, and where all that a step draws comes from: who is in the batch must not be known either.

    Attributes:
        max_grad_norm: C.
        noise_multiplier: sigma > 0.
        secret: keys the draws of a client that must be able to repeat a step; None: the operating system's, for each
            step anew, which nothing repeats.
        precision: of the network's arithmetic. Steps that could differ by it draw another batch.
    """

    max_grad_norm: float
    noise_multiplier: float
    secret: bytes | None
    precision: str = "float32"


class _Loss(nn.Module):
    """A loss as a module around its network, so that `functional_call` can give it other weights."""

    def __init__(self, network: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, *image: Tensor) -> Tensor:
        """The loss of one image, whose tensors lack the dimension of the batch."""
        return self.loss(*(part.unsqueeze(0) for part in image))


def sampling_rate(batch_size: int, num_images: int) -> float:
    """q = b / n, at most 1: a client with fewer images than b uses all of them in every step."""
    return batch_size / max(batch_size, num_images)


def clipped_gradients(gradients: Sequence[Tensor], kept: Tensor, max_grad_norm: float) -> Iterator[Tensor]:
    """g_i min(1, C / |g_i|) in float64, and 0 where g_i is not finite or not to be kept.

    Args:
        gradients: of each parameter a tensor (n, values), one row for every image i.
        kept: which images are kept, (n,).
        max_grad_norm: C; |g_i| is the norm over all parameters.
    """
    squares = torch.stack([own.double().square().sum(1) for own in gradients]).sum(0)
    factors = (max_grad_norm / squares.sqrt()).clamp(max=1).unsqueeze(1)
    kept = (kept & squares.isfinite()).unsqueeze(1)
    for own in gradients:
        # Not by a factor of 0, for 0 times infinity is no number.
        yield torch.where(kept, own.double() * factors, 0.0)


def clipped_gradient_sum(
    state: TrainState,
    loss: Callable[..., Tensor],
    images: Sequence[Tensor],
    max_grad_norm: float,
    max_loss: float = math.inf,
) -> tuple[list[Tensor], float]:
    """sum_i g_i min(1, C / |g_i|) for each of the state's parameters, in float64, and the sum of the finite losses.

    Args:
        state: the network, which stays as it is, buffers included.
        loss: of a batch, as a scalar, from tensors like `images`.
        images: what the loss takes, one row of each for every image; there may be none.
        max_grad_norm: C; |g_i| is the norm over all parameters.
        max_loss: what a loss counts as at most.
    """
    module = _Loss(state.network, loss)
    weights = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    # Copies: whatever a call moves, or puts in a tensor's place, does not outlast it.
    fixed = {name: value.detach().clone() for name, value in _tensors(module).items() if name not in weights}
    single = grad_and_value(lambda own, *image: functional_call(module, {**fixed, **own}, image))
    each = vmap(single, in_dims=(None, *[0] * len(images)), randomness="different")
    # Apple's GPUs have no float64.
    device = torch.device("cpu") if images[0].device.type == "mps" else images[0].device
    sums, losses = [torch.zeros(p.shape, dtype=torch.float64, device=device) for p in state.parameters], 0.0
    rows = max(1, _HELD_VALUES // sum(map(torch.numel, sums)))
    # Other kernels of attention have no rule for vmap.
    with sdpa_kernel(SDPBackend.MATH):
        for part in zip(*(image.split(rows) for image in images), strict=True) if len(images[0]) else ():
            gradients, values = each(weights, *part)
            flat = [gradients[name].reshape(len(values), -1).to(device) for name in weights]
            values = values.to(device).double()
            for sum_, own in zip(sums, clipped_gradients(flat, values.isfinite(), max_grad_norm), strict=True):
                sum_.add_(own.sum(0).view_as(sum_))
            losses += torch.where(values.isfinite(), values, 0.0).clamp(max=max_loss).sum().item()
    return sums, losses


def add_noise(sums: Sequence[Tensor], draws: np.random.Generator, deviation: float) -> Iterator[Tensor]:
    """The sums with normal noise of a deviation > 0, rounded to multiples of 2^-12 of it, in float32.

    Made on the CPU. Whatever float32 then rounds off is of the multiples alone.
    """
    for own in sums:
        noise = torch.from_numpy(np.asarray(draws.standard_normal(tuple(own.shape))))
        yield on_grid(noise.mul_(deviation).add_(own.cpu()), deviation).float()


def train_dp_sgd(
    state: TrainState,
    denoise: Denoise,
    source: BatchSource,
    *,
    dp: DpSgdConfig,
    last: int,
    schedule: Schedule,
    objective: Objective,
    batch_size: int,
    num_steps: int,
    learning_rate: Callable[[float], float],
    penalty: Callable[[], Tensor] | None = None,
    label_dropout: float = 0.0,
    flip: bool = False,
    max_loss: float = math.inf,
) -> TrainResult:
    """Take `num_steps` steps of DP-SGD with Adam on t in 1..last; arguments as in `train`.

    Steps t are drawn for each image by itself, not stratified: an image must not change what the others' losses are.
    The penalty knows no image, and its gradient is added as it is.

    Args:
        state: the network and its optimiser, changed in place.
        denoise: the network's forward call.
        source: the images, all at step 0.
        dp: clipping, noise and secret.
        last: the last step to train.
        schedule: the global schedule.
        objective: prediction and weighting.
        batch_size: b, the number of images in a batch on average.
        num_steps: optimiser steps.
        learning_rate: the rate at a fraction in [0, 1) of this stretch.
        penalty: added to the loss that is descended, not to the one that is reported.
        label_dropout: share of the rows whose labels are dropped.
        flip: whether images are mirrored at random.
        max_loss: what the loss of an image counts as at most in the one that is reported.

    Raises:
        SettingError: the network has batch normalisation, or another tensor that moves with what it is called on.
    """
    state.network.train()
    q = sampling_rate(batch_size, len(source))
    scale, device = dp.noise_multiplier * dp.max_grad_norm, state.parameters[0].device

    def loss(x: Tensor, start: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        return denoising_loss(schedule, objective, denoise, x, start, t, noise, labels)

    _refuse_memory(state.network, loss, source.batch(torch.zeros(1, dtype=torch.int64, device=device)), dp)
    machine = device.type, dp.precision, torch.get_num_threads()
    settings = last, schedule.name, schedule.timesteps, objective, q, dp.max_grad_norm, scale, label_dropout, flip
    draw, total, seen = _Draws(dp.secret, repr((settings, machine)).encode(), source, state), 0.0, 0
    for done in range(num_steps):
        images = _batch(source, draw(), device, q=q, last=last, label_dropout=label_dropout, flip=flip)
        sums, losses = clipped_gradient_sum(state, loss, images, dp.max_grad_norm, max_loss)
        gradients = [own.to(device).div_(q * len(source)) for own in add_noise(sums, draw(sums), scale)]
        if penalty is not None:
            torch._foreach_add_(gradients, torch.autograd.grad(penalty(), state.parameters))
        state.apply_gradients(gradients, learning_rate(done / num_steps))
        total, seen = total + losses, seen + len(images[0])
    # How many images the batches really held is no one's business.
    return TrainResult(total / max(1, seen), num_steps, round(num_steps * q * len(source)))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """All tensors of a module, those that are not trained or not saved included."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _refuse_memory(
    network: nn.Module, loss: Callable[..., Tensor], row: tuple[Tensor, Tensor, Tensor | None], dp: DpSgdConfig
) -> None:
    """Refuse a network that a call in training moves a tensor of: it is not made for images that stay by themselves.

    Args:
        network: in training mode.
        loss: what calls it.
        row: a row of the source, of which only the shape counts.
        dp: what is named in the refusal.

    Raises:
        SettingError: it has one.
    """
    if any(isinstance(module, nn.modules.batchnorm._NormBase) for module in network.modules()):
        raise SettingError("dp.noise_multiplier", dp.noise_multiplier, "0 for networks with batch normalisation")
    x, start, labels = row
    noise = torch.randn(x.shape, generator=named_generator("a call")).to(x.device)
    batch = noise, start, start + 1, noise, *([] if labels is None else [torch.zeros_like(labels)])
    module = _Loss(network, loss)
    before = _tensors(module)
    # The call has copies, and leaves in this dictionary whatever it puts in their place.
    after = {name: value.detach().clone() for name, value in before.items()}
    with torch.no_grad():
        functional_call(module, after, tuple(part[0] for part in batch))
    for name, value in before.items():
        if not torch.equal(after[name], value):
            allowed = f"0 for networks with a tensor that moves in a call (`{name.removeprefix('network.')}`)"
            raise SettingError("dp.noise_multiplier", dp.noise_multiplier, allowed)


class _Draws:
    """What a step draws from: first for its batch, then, with the sums of gradients, for their noise."""

    def __init__(self, secret: bytes | None, settings: bytes, source: BatchSource, state: TrainState) -> None:
        self.secret, self.state = secret, state
        self.content = b"" if secret is None else settings + _digest(source)

    def __call__(self, sums: Sequence[Tensor] = ()) -> np.random.Generator:
        """A generator for the state's next step.

        Equal noise means an equal sum: of two that differ, the difference would be without noise.
        """
        if self.secret is None:
            return keyed_generator(secrets.token_bytes(32), b"")
        step = self.state.steps.to_bytes(8, "little") + _bytes(self.state.parameters)
        return keyed_generator(self.secret, self.content + step + _bytes(sums))


def _batch(
    source: BatchSource,
    draws: np.random.Generator,
    device: torch.device,
    *,
    q: float,
    last: int,
    label_dropout: float,
    flip: bool,
) -> list[Tensor]:
    """x, start, t, noise and, if there are any, labels of a batch that every image joins with probability q."""
    picked = np.flatnonzero(draws.random(len(source)) < q)
    x, start, labels = source.batch(torch.from_numpy(picked).to(device))
    t = torch.from_numpy(draws.integers(1, last + 1, len(picked))).to(device)
    noise = torch.from_numpy(draws.standard_normal(tuple(x.shape), dtype=np.float32)).to(device)
    mirrored, dropped = torch.from_numpy(draws.random((2, len(picked)))).to(device)
    if flip:
        x = random_hflip(x, mirrored < 0.5)
    if label_dropout and labels is not None:
        labels = drop_labels(labels, dropped < label_dropout)
    return [x, start, t, noise] if labels is None else [x, start, t, noise, labels]


def _digest(source: BatchSource) -> bytes:
    """A hash of all that there is to train on."""
    x, _, labels = source.batch(torch.arange(len(source)))
    return hashlib.blake2b(_bytes([x] if labels is None else [x, labels])).digest()


def _bytes(tensors: Sequence[Tensor]) -> bytes:
    return b"".join(tensor.detach().cpu().numpy().tobytes() for tensor in tensors)
