"""Weights of clients against the published formula written out, and what must hold of any weights."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.gan.split_gan.kld_weighting import (
    MAX_BETA,
    MAX_PENALTY,
    Direction,
    calibrate,
    effective_share,
    kld_scores,
    weights,
)

SIZES = torch.tensor([600, 200, 100, 600])


def activations(clients: int = 4, filters: int = 3, positions: int = 5) -> Tensor:
    return torch.randn((clients, filters, positions), generator=named_generator("activations"))


def written_out(values: Tensor, direction: Direction) -> list[float]:
    clients, filters, positions = values.shape
    scores = []
    for k in range(clients):
        total = 0.0
        for f in range(filters):
            laws = [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in values[:, f].tolist()]
            for position in range(positions):
                own = laws[k][position]
                others = sum(laws[j][position] for j in range(clients) if j != k) / (clients - 1)
                mean, (a, b) = (others, (others, own)) if direction == "q_p" else (own, (own, others))
                total += mean * (math.log(a + 1e-9) - math.log(b + 1e-9))
        scores.append(total / filters)
    return scores


@pytest.mark.parametrize("direction", ["q_p", "p_q"])
def test_the_scores_are_the_formula(direction: Direction) -> None:
    values = activations()
    assert kld_scores(values, direction).tolist() == pytest.approx(written_out(values, direction), rel=1e-6)


def test_the_published_direction_is_that_of_torch() -> None:
    own = activations().double().softmax(dim=2)
    others = (own.sum(dim=0, keepdim=True) - own) / 3
    divergences = map(partial(kl_div, reduction="batchmean"), own.log(), others)
    expected = [divergence.item() for divergence in divergences]
    assert kld_scores(activations()).tolist() == pytest.approx(expected, abs=1e-6)
    assert kld_scores(activations(), "p_q").tolist() != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("direction", ["q_p", "p_q"])
def test_the_one_that_differs_is_the_farthest(direction: Direction) -> None:
    same = activations(1).expand(4, -1, -1).clone()
    torch.testing.assert_close(kld_scores(same, direction), torch.zeros(4, dtype=torch.float64))
    same[2] += activations(4)[3]
    scores = kld_scores(same, direction)
    assert scores.argmax() == 2
    assert (scores > 0).all()


def test_one_client_alone_scores_nothing_and_counts_fully() -> None:
    scores = kld_scores(activations(1))
    assert scores.tolist() == [0.0]
    assert weights(torch.tensor([7]), scores, 150.0).tolist() == [1.0]


def test_extreme_activations_give_finite_scores() -> None:
    assert kld_scores(1e4 * activations()).isfinite().all()


def test_without_beta_only_images_count() -> None:
    torch.testing.assert_close(weights(SIZES, kld_scores(activations()), 0), SIZES.double() / 1500)


def test_the_weights_are_the_formula_for_any_beta() -> None:
    scores = torch.tensor([0.01, 0.02, 0.0, 0.05], dtype=torch.float64)
    raw = SIZES * torch.exp(-20 * scores)
    torch.testing.assert_close(weights(SIZES, scores, 20), raw / raw.sum())
    for beta in (1e3, 1e12):
        shares = weights(SIZES, scores + 700, beta)
        assert shares.sum().item() == pytest.approx(1)
        assert shares.argmax() == 2


def test_clients_without_images_do_not_count() -> None:
    assert weights(torch.tensor([0, 5]), torch.tensor([0.0, 1.0]), 3).tolist() == [0.0, 1.0]
    assert effective_share(torch.tensor([0, 5]), torch.tensor([0.0, 1.0]), 3) == pytest.approx(1)


@pytest.mark.parametrize(
    ("sizes", "beta", "message"), [([0, 0], 1, "`sizes`"), ([3, -1], 1, "`sizes`"), ([1, 1], -1, "`beta`")]
)
def test_weights_of_nothing_are_refused(sizes: list[int], beta: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weights(torch.tensor(sizes), torch.zeros(2), beta)


@pytest.mark.parametrize("effective", [0.95, 0.8, 0.7])
def test_calibration_meets_its_target(effective: float) -> None:
    scores = torch.tensor([0.011, 0.062, 0.03, 0.02])
    beta = calibrate(SIZES, scores, effective)
    assert effective_share(SIZES, scores, beta) == pytest.approx(effective, abs=1e-9)
    # The published beta leaves these published divergences without effect.
    assert effective_share(SIZES, scores, 1) > 0.999


def test_calibration_of_two_equal_clients_has_a_closed_form() -> None:
    """Weights (1 + t, 1 - t) / 2 with t = tanh(beta d / 2) have the share 1 / (1 + t^2)."""
    beta = calibrate(torch.ones(2), torch.tensor([0.1, 0.3], dtype=torch.float64), 0.8)
    assert beta == pytest.approx(2 / 0.2 * math.atanh(0.5))


def test_the_share_falls_with_beta() -> None:
    scores = kld_scores(activations())
    shares = [effective_share(SIZES, scores, beta) for beta in (0, 0.5, 1, 2, 5, 20, 100)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(1)


def test_calibration_that_nothing_meets() -> None:
    assert calibrate(SIZES, torch.full((4,), 0.3), 0.5) == 0
    assert calibrate(torch.tensor([9]), torch.zeros(1), 0.5) == 0
    scores = torch.tensor([0.0, 1.0])
    bounded = calibrate(torch.tensor([99, 1]), scores, 0.5)
    assert math.exp(bounded) == pytest.approx(MAX_PENALTY)
    # Scores of clients of one law differ by noise, which is to stay one.
    alike = calibrate(torch.tensor([1, 1]), torch.tensor([9.13e-4, 9.12e-4]), 0.9)
    assert alike == MAX_BETA
    assert effective_share(torch.tensor([1, 1]), torch.tensor([9.13e-4, 9.12e-4]), alike) > 0.9999
    assert calibrate(SIZES, kld_scores(activations()), 1.0) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="`effective` = 0"):
        calibrate(SIZES, torch.zeros(4), 0)
