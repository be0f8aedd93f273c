"""Bits that a release discloses, by I-MMSE: I = 1/2 integral_0^snr mmse(g) dg nats (Guo et al., arXiv cs/0412108).

mmse(g) = min E|x_0 - x_hat|^2, the sum over the values of an image, of all estimates from sqrt(g) x_0 + noise. No
estimate's error is below it, so that the area under the least error known is an upper bound on the bits, whatever the
estimates are worth. The best linear error alone gives the Gaussian bound; a trained denoiser, which knows more of the
images than their covariance, gives a smaller one.

    errors = denoising_errors(schedule, prediction, denoise, images, steps, generator)
    denoised_bits(snr, eigenvalues, schedule.snr()[steps], errors)
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from collafuse_flwr.diffusion.forward import add_noise
from collafuse_flwr.diffusion.parametrization import Denoise, Prediction
from collafuse_flwr.diffusion.schedule import Schedule
from collafuse_flwr.privacy.attacks.denoiser_reconstruction import predict_x0
from collafuse_flwr.privacy.leakage_bounds import gaussian_bits

#: Points of the quadrature, at even distances in the logarithm of the SNR.
POINTS = 512


def denoised_bits(snr: float, eigenvalues: Tensor, at: Tensor, errors: Tensor) -> float:
    """I <= 1/2 integral_0^snr min(sum_i l_i / (1 + g l_i), error(g)) dg bits: never above `gaussian_bits`.

    Between the SNRs at which it was measured the error is interpolated in the logarithm; above them it is the last,
    since more signal never makes the least error larger; below them the linear error counts alone.

    Args:
        snr: of all releases of an image together, >= 0 and finite.
        eigenvalues: (d,) of the covariance of the images.
        at: (m,) the SNRs at which a denoiser was tried, > 0, in any order.
        errors: (m,) its E|x_0 - x_hat|^2 there, of images of the same law, summed over their values.

    Raises:
        ValueError: `snr` is negative or not finite, or nothing was measured.
    """
    if not 0 <= snr < math.inf or not len(at) or len(at) != len(errors):
        raise ValueError(f"`snr` = {snr} is not a finite number >= 0, or {len(at)} SNRs have {len(errors)} errors")
    variances, first = eigenvalues[eigenvalues > 0].double().cpu(), float(at.min())
    linear = gaussian_bits(snr, eigenvalues)
    if snr <= first:
        return linear
    order = at.argsort()
    grid = torch.logspace(math.log10(first), math.log10(snr), POINTS, dtype=torch.float64)
    mse = np.interp(grid.log().numpy(), at[order].double().log().cpu().numpy(), errors[order].double().cpu().numpy())
    least = torch.stack([(variances / (1 + g * variances)).sum() for g in grid])
    # What is better than linear is what is integrated, so that where nothing is, the Gaussian bound is left exactly.
    gain = (least - torch.from_numpy(mse)).clamp(min=0)
    return linear - torch.trapezoid(gain, grid).item() / (2 * math.log(2))


@torch.no_grad()
def denoising_errors(
    schedule: Schedule,
    prediction: Prediction,
    denoise: Denoise,
    images: Tensor,
    steps: Tensor,
    generator: torch.Generator,
    labels: Tensor | None = None,
) -> Tensor:
    """Mean over images of |x_0 - x_hat|^2 of a network's estimate from x_t, at each of some steps t.

    Args:
        schedule: the global schedule.
        prediction: what the network predicts.
        denoise: the network.
        images: x_0, (n, channels, size, size).
        steps: (m,) int64, each t >= 1.
        generator: draws the noise, on the CPU.
        labels: as in `Denoise`.

    Returns:
        (m,) in float64.
    """
    errors, start = [], torch.zeros(len(images), dtype=torch.int64, device=images.device)
    for step in steps.tolist():
        noise = torch.randn(images.shape, generator=generator).to(images.device)
        x_t = add_noise(schedule, images, start, start + step, noise)
        # An estimate outside of the images' range is never better than the nearest value inside.
        rebuilt = predict_x0(schedule, prediction, denoise, x_t, step, labels).clamp(-1, 1)
        errors.append((rebuilt - images).double().square().flatten(1).sum(dim=1).mean())
    return torch.stack(errors).cpu()
