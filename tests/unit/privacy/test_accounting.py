import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.privacy.accounting import (
    Training,
    composed_epsilon,
    epsilon,
    group_epsilon,
    log_delta,
    release_mu,
    zcdp,
)
from tests.accountants import (
    GaussianDpEvent,
    NeighboringRelation,
    PLDAccountant,
    PoissonSampledDpEvent,
    RdpAccountant,
    SelfComposedDpEvent,
)


@pytest.mark.parametrize(("mu", "releases"), [(0.3, 1), (1.0, 1), (2.2, 1), (0.5, 20), (4.6, 1)])
def test_epsilon_agrees_with_dp_accounting(mu: float, releases: int) -> None:
    accountant = PLDAccountant()
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(1 / mu), releases))
    ours = epsilon(mu * math.sqrt(releases), 1e-5)
    assert ours == pytest.approx(accountant.get_epsilon(1e-5), rel=2e-3)


@pytest.mark.parametrize(("cut_mu", "published"), [(16, 197), (9.0, 78), (4.6, 30), (2.2, 11), (0.9, 3.9), (0.57, 2.3)])
def test_published_values_at_delta_1e_5(cut_mu: float, published: float) -> None:
    assert epsilon(cut_mu, 1e-5) == pytest.approx(published, rel=0.03)


REPLACED = NeighboringRelation.REPLACE_ONE


@pytest.mark.parametrize(("mu", "sigma", "steps"), [(0.0, 14.0, 200), (1.5, 8.0, 30)])
def test_full_batches_are_one_gaussian_mechanism_of_twice_the_norm(mu: float, sigma: float, steps: int) -> None:
    """mu^2 + 4 steps / sigma^2, and as dp-accounting composes it step by step; just below q = 1 it is the same."""
    ours = composed_epsilon(mu, 1e-5, Training(sigma, 1, steps))
    assert ours == pytest.approx(epsilon(math.sqrt(mu**2 + 4 * steps / sigma**2), 1e-5))
    accountant = PLDAccountant(REPLACED)
    accountant.compose(GaussianDpEvent(sigma), steps)
    if mu:
        accountant.compose(GaussianDpEvent(2 / mu))
    assert ours == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    nearly = composed_epsilon(mu, 1e-5, Training(sigma, 1 - 1e-9, steps))
    assert nearly == pytest.approx(ours, rel=1e-3)


@pytest.mark.parametrize(("mu", "sigma", "q", "steps"), [(0.0, 1.0, 0.05, 300), (1.5, 4.0, 0.2, 500)])
def test_sampled_steps_agree_with_a_finer_grid(mu: float, sigma: float, q: float, steps: int) -> None:
    accountant = PLDAccountant(REPLACED, 1e-4)
    accountant.compose(PoissonSampledDpEvent(q, GaussianDpEvent(sigma)), steps)
    if mu:
        accountant.compose(GaussianDpEvent(2 / mu))
    ours = composed_epsilon(mu, 1e-5, Training(sigma, q, steps))
    assert ours == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)


def test_a_replaced_image_costs_more_than_one_that_is_added_and_no_more_than_two() -> None:
    """Twice (epsilon, delta) is (2 epsilon, (1 + e^epsilon) delta), here with the smaller delta = 1e-7."""
    added = RdpAccountant()
    added.compose(SelfComposedDpEvent(PoissonSampledDpEvent(0.1, GaussianDpEvent(2.0)), 100))
    replaced = composed_epsilon(0, 1e-5, Training(2.0, 0.1, 100))
    assert replaced > 1.2 * added.get_epsilon(1e-5)
    once = added.get_epsilon(1e-7)
    assert (1 + math.exp(once)) * 1e-7 < 1e-5
    assert replaced < 2 * once


def test_vacuous_numbers_are_finite_and_quick() -> None:
    """What the default cut releases, and hardly any noise: the grid gets coarser, not larger."""
    released = composed_epsilon(78.0, 1e-5, Training(8.0, 0.1, 10))
    assert epsilon(78.0, 1e-5) < released < epsilon(math.sqrt(78**2 + 4 * 10 / 64), 1e-5) + 1
    noiseless = composed_epsilon(0, 1e-5, Training(0.1, 0.1, 10))
    assert epsilon(20.0, 1e-5) < noiseless < epsilon(65.0, 1e-5)


def test_delta_is_the_largest_gap_of_two_gaussians() -> None:
    generator, mu, eps = torch.Generator().manual_seed(0), 1.5, 1.0
    x = torch.randn(400_000, generator=generator, dtype=torch.float64) + mu
    # sup_S P(S) - e^eps Q(S) is attained where the log-likelihood ratio mu x - mu^2 / 2 is above eps.
    inside = mu * x - mu**2 / 2 > eps
    by_chance = (mu * (x - mu) - mu**2 / 2 > eps).double().mean()
    simulated = inside.double().mean() - math.exp(eps) * by_chance
    assert math.exp(log_delta(eps, mu)) == pytest.approx(float(simulated), abs=5e-3)


@settings(max_examples=60)
@given(mu=st.floats(1e-3, 500), delta=st.sampled_from([1e-12, 1e-5, 1e-3, 0.1]))
def test_epsilon_gives_delta_back_and_is_below_zcdps_bound(mu: float, delta: float) -> None:
    eps = epsilon(mu, delta)
    assert 0 <= eps <= zcdp(mu) + mu * math.sqrt(2 * math.log(1 / delta))
    if eps > 0:
        assert log_delta(eps, mu) == pytest.approx(math.log(delta), abs=1e-4)
    else:
        assert log_delta(0.0, mu) <= math.log(delta)


def test_the_ends() -> None:
    assert epsilon(0.0, 1e-5) == 0.0
    assert epsilon(math.inf, 1e-5) == math.inf
    assert release_mu(math.inf, 1.0) == math.inf
    assert release_mu(math.inf, 1.0, releases=0) == 0.0
    assert release_mu(0.25, 4.0) == 4.0
    assert release_mu(0.25, 4.0, releases=9) == 12.0
    assert zcdp(2.0) == 2.0
    assert composed_epsilon(math.inf, 1e-5, Training(1, 0.1, 5)) == math.inf
    assert composed_epsilon(1.0, 1e-5, Training(1, 0.1, 0)) == epsilon(1.0, 1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: epsilon(-1.0, 1e-5),
        lambda: epsilon(1.0, 0.0),
        lambda: epsilon(math.nan, 1e-5),
        lambda: release_mu(-0.1, 1.0),
        lambda: release_mu(0.1, 0.0),
        lambda: release_mu(0.1, 1.0, releases=-1),
        lambda: composed_epsilon(0, 1e-5, Training(0, 0.1, 5)),
        lambda: composed_epsilon(0, 1e-5, Training(1, 1.1, 5)),
    ],
)
def test_what_is_out_of_range_is_refused(call: object) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=r"is not|out of range"):
        call()


def test_a_group_of_one_is_an_image() -> None:
    training = Training(4.0, 0.2, 50)
    assert group_epsilon(1.5, 1e-5, 1, training) == composed_epsilon(1.5, 1e-5, training)


@pytest.mark.parametrize(("images", "steps"), [(4, 0), (4, 200), (20, 200)])
def test_full_batches_move_by_all_images_of_a_group(images: int, steps: int) -> None:
    """n mu^2 + 4 n^2 steps / sigma^2: releases have independent noise, gradients add up."""
    ours = group_epsilon(0.7, 1e-5, images, Training(300.0, 1, steps))
    assert ours == pytest.approx(epsilon(math.sqrt(images * 0.7**2 + 4 * images**2 * steps / 300.0**2), 1e-5))


def replaced_delta(eps: float, sigma: float, chances: torch.Tensor) -> float:
    """The smallest delta of one sampled step at which a group's gradients are all +1 or all -1, by quadrature."""
    x = torch.linspace(-len(chances) - 12 * sigma, len(chances) + 12 * sigma, 200_001, dtype=torch.float64)
    counts = torch.arange(len(chances), dtype=torch.float64)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), sigma)
    density = (chances * normal.log_prob(x[:, None] - counts).exp()).sum(1)
    return float(torch.trapezoid((density - math.exp(eps) * density.flip(0)).clamp(min=0), x))


@pytest.mark.parametrize(("images", "sigma", "q"), [(2, 2.0, 0.05), (5, 4.0, 0.1), (12, 8.0, 0.02)])
def test_a_sampled_group_has_the_guarantee_and_not_much_more(images: int, sigma: float, q: float) -> None:
    from scipy.stats import binom  # noqa: PLC0415

    chances = torch.tensor([binom.pmf(j, images, q) for j in range(images + 1)], dtype=torch.float64)
    ours = group_epsilon(0.0, 1e-5, images, Training(sigma, q, 1))
    assert replaced_delta(ours, sigma, chances) <= 1e-5
    assert replaced_delta(ours / 2, sigma, chances) > 1e-5


def test_a_group_costs_more_than_its_images_and_what_cannot_be_resolved_is_infinite() -> None:
    training = Training(10.0, 0.05, 100)
    epsilons = [group_epsilon(0.2, 1e-5, n, training) for n in (1, 2, 4)]
    assert epsilons == sorted(epsilons)
    assert composed_epsilon(0.2, 1e-5, training) == epsilons[0] < epsilons[1]
    assert group_epsilon(0.0, 1e-5, 20, Training(1.0, 0.2, 100)) == math.inf
    with pytest.raises(ValueError, match="`images` = 0"):
        group_epsilon(0.0, 1e-5, 0)
