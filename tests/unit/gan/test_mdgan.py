"""MD-GAN's players: a step against plain autograd, the mean over clients, who judges what, and the swap."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import choose_runtime
from collafuse_flwr.gan.mdgan import Discriminator, Generator, derangement, draw_codes, shares
from collafuse_flwr.gan.networks import Architecture, build_architecture
from collafuse_flwr.gan.split_gan.ops import OptimConfig

PRACTICE = OptimConfig(choose_runtime("cpu", "float32"))
ROWS = 4


@pytest.fixture(scope="module")
def architecture() -> Architecture:
    return build_architecture(channels=1, size=8, num_classes=3, width=2)


def moved(generator: Generator) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in generator.blocks.parameters()]


def test_the_gradient_that_comes_back_is_that_of_the_undivided_loss(architecture: Architecture) -> None:
    generator, judge = Generator(architecture, (0,), PRACTICE), Discriminator(architecture, (1,), PRACTICE)
    z, labels = draw_codes(ROWS, 3, named_generator("codes"))
    made = generator(z, labels)
    feedback = judge.feedback(made, labels)
    logits = judge(made, labels)
    loss = torch.nn.functional.softplus(-logits).mean()
    expected = torch.autograd.grad(loss, made)[0]
    assert feedback.shape == made.shape
    assert torch.allclose(feedback, expected, rtol=1e-4, atol=1e-7)
    assert all(parameter.grad is None for parameter in judge.blocks.parameters())
    assert judge.losses["generator"] == pytest.approx(loss.item(), rel=1e-6)


def test_a_step_is_on_the_mean_over_clients_of_batches_that_several_judge(architecture: Architecture) -> None:
    """Adam's first moment after a first step is (1 - 0.5) times the gradient."""
    generator = Generator(architecture, (0,), PRACTICE)
    fakes = [generator(*draw_codes(ROWS, 3, named_generator("codes", batch))) for batch in range(2)]
    feedback = {n: (n % 2, torch.randn(fakes[0].shape, generator=named_generator("feedback", n))) for n in range(3)}
    loss = sum((fakes[batch] * gradient).sum() for batch, gradient in feedback.values())
    assert isinstance(loss, Tensor)
    expected = torch.autograd.grad(loss / 3, list(generator.blocks.parameters()), retain_graph=True)
    generator.optimizer_step(fakes, feedback)
    # A bias before a batch normalisation has no gradient but what is left of terms that cancel.
    rounding = 1e-5 * max(gradient.abs().max().item() for gradient in expected)
    for parameter, gradient in zip(generator.blocks.parameters(), expected, strict=True):
        first = generator.optimiser.state[parameter]["exp_avg"]
        assert torch.allclose(first, gradient / 2, rtol=1e-4, atol=rounding)


def test_without_feedback_nothing_moves(architecture: Architecture) -> None:
    generator = Generator(architecture, (0,), PRACTICE)
    before = moved(generator)
    generator.optimizer_step([generator(*draw_codes(ROWS, 3, named_generator("codes")))], {})
    assert all(torch.equal(a, b) for a, b in zip(before, moved(generator), strict=True))


def test_what_a_player_keeps_it_goes_on_from(architecture: Architecture) -> None:
    """On disk values lie in another order than in the fused optimiser, which must not mistake one for another."""
    one, other = Generator(architecture, (0,), PRACTICE), Generator(architecture, (1,), PRACTICE)
    for step in range(2):
        if step:
            plain = torch.contiguous_format
            other.load({name: value.clone(memory_format=plain) for name, value in one.state().items()})
        for player in (one, other):
            made = player(*draw_codes(ROWS, 3, named_generator("codes", step)))
            player.optimizer_step([made], {0: (0, torch.ones_like(made))})
    assert all(torch.equal(a, b) for a, b in zip(moved(one), moved(other), strict=True))


def test_a_client_learns_from_another_batch_than_it_judges() -> None:
    assert shares([3, 5, 8], 1) == {3: (0, 0), 5: (0, 0), 8: (0, 0)}
    assert shares([3, 5, 8], 2) == {3: (1, 0), 5: (0, 1), 8: (1, 0)}


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_the_swap_is_a_permutation_in_which_nobody_stays(count: int) -> None:
    clients = [10 + client for client in range(count)]
    for seed in range(20):
        swapped = derangement(clients, named_generator("swap", seed))
        assert sorted(swapped) == sorted(swapped.values()) == clients
        assert all(sender != receiver for sender, receiver in swapped.items())
        assert swapped == derangement(clients, named_generator("swap", seed))


def test_every_swap_of_four_is_as_likely_as_any_other() -> None:
    generator = named_generator("swaps")
    seen = Counter(tuple(derangement(range(4), generator).values()) for _ in range(900))
    assert len(seen) == 9
    # 100 each are expected, with a standard deviation of 9.4.
    assert all(50 < times < 150 for times in seen.values())


def test_nobody_swaps_alone() -> None:
    assert derangement([4], named_generator("swap")) == derangement([], named_generator("swap")) == {}
