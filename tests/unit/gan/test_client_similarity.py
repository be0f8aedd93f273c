"""How alike clients are, against what must hold of it, and the mixtures that follow."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import choose_runtime
from collafuse_flwr.gan.client_similarity import COMPONENTS, mixture, similarities, trained_classes
from collafuse_flwr.gan.fedgan import UnsplitGan
from collafuse_flwr.gan.networks import Architecture, build_architecture
from collafuse_flwr.gan.split_gan.client_half import Batch
from collafuse_flwr.gan.split_gan.ops import OptimConfig


def noise(name: str, count: int = 300, shift: float = 0.0) -> Tensor:
    return torch.randn((count, 1, 4, 4), generator=named_generator(name)) + shift


def test_equal_clients_are_alike() -> None:
    same = similarities([noise("a"), noise("a"), noise("a", shift=3.0)])
    assert same[0, 1] == pytest.approx(1, abs=1e-6)
    assert similarities([torch.zeros(4, 1, 4, 4)] * 2).tolist() == [[1, 1], [1, 1]]


def test_a_client_that_makes_one_image_only_is_like_no_other() -> None:
    given = similarities([torch.ones(50, 1, 4, 4), noise("a"), noise("a")])
    assert given.isfinite().all()
    assert given[0, 1] == given[0, 2] < 0.5
    assert given[1, 2] == pytest.approx(1, abs=1e-6)


def test_similarity_of_shifted_sets_is_the_equation() -> None:
    """Sets that differ by a shift: d^2 is its square, and v the variance of a set and of the shift."""
    one, shift = noise("a", 2000), 0.5
    given = similarities([one, one + shift])
    assert one[0].numel() == COMPONENTS
    distance = COMPONENTS * shift**2
    everything = torch.cat([one, one + shift]).flatten(1)
    assert given[0, 1].item() == pytest.approx(math.exp(-distance / everything.var(dim=0).sum().item()), rel=1e-3)


def test_similarity_follows_its_clients_and_not_the_scale_of_pixels() -> None:
    sets = [noise("a"), noise("b", shift=0.3), noise("c", 200) * 2]
    there, order = similarities(sets), [2, 0, 1]
    assert torch.equal(there, there.T)
    assert torch.equal(there.diagonal(), torch.ones(3, dtype=torch.float64))
    assert 0 <= there.min() < there[0, 1] < 1
    torch.testing.assert_close(similarities([sets[i] for i in order]), there[order][:, order], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(similarities([7 * x for x in sets]), there, rtol=1e-4, atol=1e-6)


def test_large_images_are_averaged_down() -> None:
    coarse = [noise("a").repeat_interleave(4, 2).repeat_interleave(4, 3), noise("b", shift=1.0)]
    coarse[1] = coarse[1].repeat_interleave(4, 2).repeat_interleave(4, 3)
    fine = [x.repeat_interleave(4, 2).repeat_interleave(4, 3) for x in coarse]
    torch.testing.assert_close(similarities(fine), similarities(coarse), rtol=1e-4, atol=1e-6)


def test_a_mixture_has_a_share_of_each_other_clients_images() -> None:
    assert mixture(1, torch.tensor([0.5, 1.0, 0.0, 1.0]), [100, 70, 40, 10], most=1000) == [50, 0, 0, 10]
    assert mixture(1, torch.tensor([0.5, 1.0, 0.0, 1.0]), [100, 70, 40, 10], most=30) == [25, 0, 0, 5]
    assert mixture(0, torch.ones(1), [5], most=9) == [0]
    assert sum(mixture(0, torch.full((9,), 0.37), [101] * 9, most=100)) <= 100


@pytest.fixture(scope="module")
def architecture() -> Architecture:
    return build_architecture(channels=1, size=8, num_classes=5, width=2)


def test_the_classes_of_a_generator_are_those_of_its_batches(architecture: Architecture) -> None:
    gan = UnsplitGan(architecture, 0, OptimConfig(choose_runtime("cpu", "float32")))
    initial = {name: value.clone() for name, value in gan.blocks().items()}
    assert trained_classes(architecture, initial, initial).tolist() == [0, 1, 2, 3, 4]
    labels, stream = torch.tensor([1, 3, 1, 3]), named_generator("batch")
    batch = Batch(torch.randn((4, 1, 8, 8), generator=stream), labels, torch.randn((4, 100), generator=stream))
    gan.train([batch, batch])
    assert trained_classes(architecture, initial, gan.blocks()).tolist() == [1, 3]
