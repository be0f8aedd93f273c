"""Differentially private training: DP-SGD (Abadi et al. 2016, arXiv 1607.00133) of a denoiser on its own images.

An image belongs to a step's batch with probability q = b / n, whatever the others do (Poisson); with g_i the gradient
of its loss, the step goes along (sum_i g_i min(1, C / |g_i|) + N(0, sigma^2 C^2)) / b. One image moves the sum by at
most C, and what is made of it (Adam's moments, averaged weights, samples) is post-processing.

g_i come from torch.func: vmap of grad over the loss that everybody trains on. It takes any module without batch
normalisation as it is, a user's own included, where Opacus wraps the network (its weights change their names, by which
they are sent and averaged) and needs a rule for every kind of layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.rng import keyed_generator
from collafuse_flwr.diffusion.guidance import drop_labels
from collafuse_flwr.diffusion.loss import Objective, denoising_loss
from collafuse_flwr.diffusion.parametrization import Denoise
from collafuse_flwr.diffusion.schedule import Schedule
from collafuse_flwr.diffusion.train import BatchSource, TrainResult, TrainState, random_hflip

#: Numbers in the gradients of single images that are held at once (64 MB); one image's may be more.
_HELD_VALUES = 2**24


@dataclass(frozen=True)
class DpSgdConfig:
    """C and sigma, and the secret that keys all that a step draws: who is in the batch must not be known either."""

    max_grad_norm: float
    noise_multiplier: float
    secret: bytes


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


def clipped_gradient_sum(
    state: TrainState, loss: Callable[..., Tensor], images: Sequence[Tensor], max_grad_norm: float
) -> tuple[list[Tensor], Tensor]:
    """sum_i g_i min(1, C / |g_i|) for each of the state's parameters, and the sum of the losses.

    Args:
        state: the network; its parameters stay as they are.
        loss: of a batch, as a scalar, from tensors like `images`.
        images: what the loss takes, one row of each for every image; there may be none.
        max_grad_norm: C; |g_i| is the norm over all parameters.
    """
    module = _Loss(state.network, loss)
    weights = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    single = grad_and_value(lambda own, *image: functional_call(module, own, image))
    each = vmap(single, in_dims=(None, *[0] * len(images)), randomness="different")
    total, losses = [torch.zeros_like(p) for p in state.parameters], torch.zeros((), device=images[0].device)
    rows = max(1, _HELD_VALUES // sum(map(torch.numel, total)))
    # Other kernels of attention have no rule for vmap.
    with sdpa_kernel(SDPBackend.MATH):
        for part in zip(*(image.split(rows) for image in images), strict=True) if len(images[0]) else ():
            gradients, values = each(weights, *part)
            flat = [gradients[name].flatten(1) for name in weights]
            norms = torch.stack([own.norm(dim=1) for own in flat]).norm(dim=0)
            factors = (max_grad_norm / norms).clamp(max=1)
            for sum_, own in zip(total, flat, strict=True):
                sum_.add_((factors @ own).view_as(sum_))
            losses = losses + values.sum()
    return total, losses


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

    Raises:
        SettingError: the network has batch normalisation, so that one image's loss depends on the others.
    """
    if any(isinstance(module, nn.modules.batchnorm._NormBase) for module in state.network.modules()):
        raise SettingError("dp.noise_multiplier", dp.noise_multiplier, "0 for networks with batch normalisation")
    state.network.train()
    q = sampling_rate(batch_size, len(source))
    scale, device = dp.noise_multiplier * dp.max_grad_norm, state.parameters[0].device

    def loss(x: Tensor, start: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        return denoising_loss(schedule, objective, denoise, x, start, t, noise, labels)

    # The stream's name has the short names of predictions: equal settings give equal noise in every version.
    name = repr((last, schedule.name, schedule.timesteps, objective, q, dp.max_grad_norm, scale, label_dropout, flip))
    name = name.replace("'v_prediction'", "'v'").replace("'epsilon'", "'eps'")
    content, total, seen = name.encode() + _digest(source), 0.0, 0
    for done in range(num_steps):
        draws = keyed_generator(dp.secret, content + state.steps.to_bytes(8, "little") + _bytes(state.parameters))
        images = _batch(source, draws, device, q=q, last=last, label_dropout=label_dropout, flip=flip)
        gradients, losses = clipped_gradient_sum(state, loss, images, dp.max_grad_norm)
        for gradient in gradients:
            noise = draws.standard_normal(tuple(gradient.shape), dtype=np.float32)
            gradient.add_(torch.from_numpy(noise).to(device), alpha=scale).div_(q * len(source))
        if penalty is not None:
            torch._foreach_add_(gradients, torch.autograd.grad(penalty(), state.parameters))
        state.apply_gradients(gradients, learning_rate(done / num_steps))
        total, seen = total + losses.item(), seen + len(images[0])
    # How many images the batches really held is no one's business.
    return TrainResult(total / max(1, seen), num_steps, round(num_steps * q * len(source)))


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
