import math
import sys

import absl.logging
import pytest
import torch
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.privacy.accounting import epsilon, log_delta, release_mu, zcdp

# dp_accounting imports absl, whose handler keeps the stderr of the moment, which is pytest's, and closes it when Hydra
# sets up logging in a test that has a stderr of its own.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.mark.parametrize(("mu", "releases"), [(0.3, 1), (1.0, 1), (2.2, 1), (0.5, 20), (4.6, 1)])
def test_epsilon_agrees_with_dp_accounting(mu: float, releases: int) -> None:
    accountant = PLDAccountant()
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(1 / mu), releases))
    ours = epsilon(mu * math.sqrt(releases), 1e-5)
    assert ours == pytest.approx(accountant.get_epsilon(1e-5), rel=2e-3)


@pytest.mark.parametrize(("cut_mu", "known"), [(16, 197), (9.0, 78), (4.6, 30), (2.2, 11), (0.9, 3.9), (0.57, 2.3)])
def test_published_values_at_delta_1e_5(cut_mu: float, known: float) -> None:
    assert epsilon(cut_mu, 1e-5) == pytest.approx(known, rel=0.03)


def test_delta_is_the_largest_gap_of_two_gaussians() -> None:
    generator, mu, eps = torch.Generator().manual_seed(0), 1.5, 1.0
    x = torch.randn(400_000, generator=generator, dtype=torch.float64) + mu
    # sup_S P(S) - e^eps Q(S) is attained where the log-likelihood ratio mu x - mu^2 / 2 is above eps.
    inside = mu * x - mu**2 / 2 > eps
    by_chance = (mu * (x - mu) - mu**2 / 2 > eps).double().mean()
    simulated = inside.double().mean() - math.exp(eps) * by_chance
    assert math.exp(log_delta(eps, mu)) == pytest.approx(float(simulated), abs=5e-3)


@settings(max_examples=60, deadline=None)
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


@pytest.mark.parametrize(
    "call",
    [
        lambda: epsilon(-1.0, 1e-5),
        lambda: epsilon(1.0, 0.0),
        lambda: epsilon(math.nan, 1e-5),
        lambda: release_mu(-0.1, 1.0),
        lambda: release_mu(0.1, 0.0),
        lambda: release_mu(0.1, 1.0, releases=-1),
    ],
)
def test_what_is_out_of_range_is_refused(call: object) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=r"is not|out of range"):
        call()
