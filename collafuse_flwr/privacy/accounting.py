"""Differential privacy of releases, in closed form, and composed with that of training by DP-SGD.

A release is the Gaussian mechanism on a clipped image.

x_k = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps with |x_0| <= C moves by at most 2 C sqrt(alpha_bar) when an image
is replaced by another, under noise of deviation sqrt(1 - alpha_bar). Whatever is made of it afterwards (the backbone,
its samples) is post-processing. Labels that travel beside it are not covered.

    mu = release_mu(snr, clip_norm=4.3)    # Gaussian DP of one release
    epsilon(mu, delta=1e-5)                # (epsilon, delta)
    composed_epsilon(mu, 1e-5, Training(noise_multiplier=4, sampling_rate=0.2, steps=500))

Everywhere neighbours differ in one image that is replaced by another (so the number of images may be known): a release,
or a sum of clipped gradients, moves by at most twice the norm that bounds it. Accountants that count an image as added
or removed assume half of that, and their epsilon is not this one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

#: Step of the grid of privacy losses, which are rounded up to it, and the largest loss of one mechanism for which it is
#: as fine as this; a larger loss gets a coarser grid, of as many points.
_GRID, _FINE_UP_TO = 1e-3, 100.0

#: Epsilon from which on the guarantee says nothing: an attacker's odds may rise by more than e^20.
VACUOUS = 20.0


def release_mu(snr: float, clip_norm: float, *, releases: int = 1) -> float:
    """mu = 2 C sqrt(n snr) of n releases of one image with independent noise (Dong et al. 2019, arXiv 1905.02383).

    The sensitivity is that of replacing one image by any other of norm at most C; Gaussian mechanisms compose to one
    whose mu is the root of the sum of squares (ibid., corollary 3.3).

    Args:
        snr: alpha_bar / (1 - alpha_bar) at the cut, >= 0; inf for clean images.
        clip_norm: C > 0; without clipping sqrt(d) for d values in [-1, 1].
        releases: n >= 0.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not snr >= 0 or not clip_norm > 0 or releases < 0:
        raise ValueError(f"`snr` = {snr}, `clip_norm` = {clip_norm} or `releases` = {releases} is out of range")
    return 2 * clip_norm * math.sqrt(snr) * math.sqrt(releases) if releases else 0.0


def zcdp(mu: float) -> float:
    """rho = mu^2 / 2, zero-concentrated DP of a Gaussian mechanism (Bun and Steinke, arXiv 1605.02065, prop. 1.6)."""
    return mu * mu / 2


def log_delta(eps: float, mu: float) -> float:
    """log of delta = Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2), mu > 0 (arXiv 1905.02383, corollary 2.13)."""
    from scipy.special import log_ndtr  # noqa: PLC0415 - slow, and most runs of a deployed client do without

    above, below = log_ndtr(-eps / mu + mu / 2), eps + log_ndtr(-eps / mu - mu / 2)
    # Both terms may be far below the smallest float while their ratio is not.
    return float(above + math.log(-math.expm1(min(below - above, -1e-300))))


def epsilon(mu: float, delta: float) -> float:
    """The smallest epsilon for which mu-Gaussian DP is (epsilon, delta)-DP.

    Args:
        mu: >= 0; inf gives inf.
        delta: in (0, 1).

    Raises:
        ValueError: an argument is out of its range.
    """
    from scipy.optimize import brentq  # noqa: PLC0415 - slow, as above

    if not mu >= 0 or not 0 < delta < 1:
        raise ValueError(f"`mu` = {mu} is not >= 0, or `delta` = {delta} is not in (0, 1)")
    if math.isinf(mu):
        return math.inf
    target = math.log(delta)
    if mu == 0 or log_delta(0.0, mu) <= target:
        return 0.0
    # rho + 2 sqrt(rho log(1/delta)) is enough (arXiv 1605.02065, proposition 1.3), and never too little.
    enough = zcdp(mu) + mu * math.sqrt(-2 * target)
    return float(brentq(lambda eps: log_delta(eps, mu) - target, 0.0, enough, xtol=1e-9))


@dataclass(frozen=True)
class Training:
    """Some steps of DP-SGD.

    Attributes:
        noise_multiplier: sigma > 0, in multiples of the norm to which gradients are clipped.
        sampling_rate: q in (0, 1].
        steps: >= 0.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not self.noise_multiplier > 0 or not 0 < self.sampling_rate <= 1 or self.steps < 0:
            raise ValueError(f"{self} is out of range")


@cache
def composed_epsilon(mu: float, delta: float, *training: Training) -> float:
    """Epsilon at `delta` of a mu-Gaussian-DP mechanism and of steps of DP-SGD on the same image.

    A step is the Gaussian mechanism of mu = 2 / sigma on a Poisson sample (its two neighbours are the mixtures
    (1 - q) N(0, sigma^2) + q N(+-1, sigma^2)). At q = 1 all is one Gaussian mechanism, of mu^2 + 4 steps / sigma^2;
    below, privacy loss distributions are composed, rounded so that epsilon is never too small (Google's dp-accounting,
    which knows replaced images; Koskela et al. 2020, arXiv 1906.03049).

    Args:
        mu: of what is composed with the training, >= 0; inf gives inf.
        delta: in (0, 1).
        training: steps, each with their own noise and sampling rate.

    Raises:
        ValueError: an argument is out of its range.
    """
    whole = [own for own in training if own.sampling_rate == 1]
    mu = math.sqrt(mu * mu + sum(4 * own.steps / own.noise_multiplier**2 for own in whole))
    sampled = [own for own in training if own.sampling_rate < 1 and own.steps]
    if not sampled or math.isinf(mu):
        return epsilon(mu, delta)
    from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent  # noqa: PLC0415 - slow, too
    from dp_accounting.pld import PLDAccountant  # noqa: PLC0415 - slow, as above

    largest = epsilon(max(mu, *(2 / own.noise_multiplier for own in sampled)), delta)
    accountant = PLDAccountant(NeighboringRelation.REPLACE_ONE, _GRID * max(1.0, largest / _FINE_UP_TO))
    for own in sampled:
        accountant.compose(PoissonSampledDpEvent(own.sampling_rate, GaussianDpEvent(own.noise_multiplier)), own.steps)
    if mu:
        accountant.compose(GaussianDpEvent(2 / mu))
    return float(accountant.get_epsilon(delta))


@cache
def group_epsilon(mu: float, delta: float, images: int, *training: Training) -> float:
    """Epsilon at `delta` for all images of one group at once that are replaced by others, or by images of no effect.

    Releases have independent noise: n images move them by sqrt(n) mu. Of n images a step of DP-SGD samples j with
    probability Binomial(n, q), and their gradients add up to j times the norm at most, so that one-dimensional mixtures
    of Gaussians dominate it (Ganesh 2024, arXiv 2401.10294): these are neighbours of whom one lacks the images. Other
    images in their place are a second step of the same kind, which makes (2 a, delta) of (a, delta / (1 + e^a)). At
    q = 1 all is one Gaussian mechanism, of n mu^2 + 4 n^2 steps / sigma^2.

    Args:
        mu: of the releases of one image that is replaced, >= 0; inf gives inf.
        delta: in (0, 1).
        images: n >= 1.
        training: steps of DP-SGD, each with their own noise and sampling rate.

    Returns:
        Epsilon; inf where there are steps with q < 1 and it is above `VACUOUS`, beyond which convolutions in float64
        resolve no delta.

    Raises:
        ValueError: an argument is out of its range.
    """
    if images < 1:
        raise ValueError(f"`images` = {images} is not >= 1")
    if images == 1:
        return composed_epsilon(mu, delta, *training)
    whole = sum(own.steps / own.noise_multiplier**2 for own in training if own.sampling_rate == 1)
    mu = math.sqrt(images * mu * mu + 4 * images**2 * whole)
    sampled = [own for own in training if own.sampling_rate < 1 and own.steps]
    if not sampled or math.isinf(mu):
        return epsilon(mu, delta)
    from scipy.optimize import brentq  # noqa: PLC0415 - slow, as above

    losses = _losses_without(mu / 2, delta, images, sampled)

    def excess(a: float) -> float:
        """Above 0 where delta is too small for (2 a, delta)."""
        return float(losses.get_delta_for_epsilon(a)) * (1 + math.exp(a)) - delta

    if excess(VACUOUS / 2) > 0:
        return math.inf
    return 2 * float(brentq(excess, 0.0, VACUOUS / 2, xtol=1e-6)) if excess(0.0) > 0 else 0.0


def _losses_without(mu: float, delta: float, images: int, training: list[Training]) -> Any:
    """Privacy losses of a mu-Gaussian mechanism and of sampled steps between data with and without some images."""
    from dp_accounting.pld import privacy_loss_distribution as pld  # noqa: PLC0415 - slow, as above
    from scipy.stats import binom  # noqa: PLC0415 - slow, as above

    largest = epsilon(max(mu, *(images / own.noise_multiplier for own in training)), delta)
    grid = _GRID * max(1.0, largest / _FINE_UP_TO)
    losses = pld.identity(grid)
    if mu:
        losses = pld.from_gaussian_mechanism(1 / mu, value_discretization_interval=grid)
    for own in training:
        counts = range(images + 1)
        chances = [float(binom.pmf(j, images, own.sampling_rate)) for j in counts]
        step = pld.from_mixture_gaussian_mechanism(
            own.noise_multiplier, [float(j) for j in counts], chances, value_discretization_interval=grid
        )
        losses = losses.compose(step.self_compose(own.steps))
    return losses
