"""What blocks cost: as PyTorch counts them, and as the paper does."""

from __future__ import annotations

import pytest
import torch

from collafuse_flwr.gan.networks import build_architecture
from collafuse_flwr.gan.planning.block_cost import PAPER_ELEMENTWISE, measure

MNIST = build_architecture(1, 28, 10)
#: GFLOP of a forward pass of 64 images in the authors' count, block by block.
PAPER = {
    "generator": (0.185, 13.169, 3.715, 13.185, 0.058),
    "discriminator": (0.060, 0.826, 0.929, 0.606, 0.0003),
}


@pytest.mark.parametrize("net", PAPER)
def test_the_papers_count_is_met(net: str) -> None:
    blocks = measure(MNIST, 64, "paper").of(net)
    assert [block.forward / 1e9 for block in blocks] == pytest.approx(PAPER[net], rel=0.02)
    assert [block.backward / block.forward for block in blocks[1:-1]] == pytest.approx([2] * 3, rel=0.01)
    assert PAPER_ELEMENTWISE == (10, 15)


def test_operations_are_two_for_every_product() -> None:
    """Images x places of the smaller map x maps in x maps out x kernel."""
    cost = measure(MNIST, 64)
    places = {28: 784, 14: 196, 7: 49, 3: 9}
    generator = (
        110 * 256 * places[7],
        places[7] * 256 * 128 * 16,
        places[14] * 128 * 128 * 9,
        places[14] * 128 * 64 * 16,
        places[28] * 64 * 9,
    )
    discriminator = (
        places[14] * 2 * 64 * 16,
        places[7] * 64 * 128 * 16,
        places[7] * 128 * 128 * 9,
        places[3] * 128 * 256 * 16,
        256 * places[3],
    )
    for blocks, products in ((cost.generator, generator), (cost.discriminator, discriminator)):
        assert [block.forward for block in blocks] == [2 * 64 * each for each in products]
        assert [block.backward for block in blocks] == [4 * 64 * each for each in products]


def test_nothing_is_drawn_from_the_global_random_state() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    measure(build_architecture(3, 8, 4, width=8, depth=2), 6)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_bytes_are_those_of_the_reference() -> None:
    cost = measure(MNIST, 64)
    assert [block.output for block in cost.generator[:4]] == [3211264, 6422528, 6422528, 12845056]
    assert [block.output for block in cost.discriminator[:4]] == [3211264, 1605632, 1605632, 589824]
    assert sum(block.weights for block in (*cost.generator, *cost.discriminator)) == 4 * 3038662
    # What normalisation and rectifier keep of 64 x 256 x 7 x 7 values, beside what goes in.
    assert cost.generator[0].kept > 2 * cost.generator[0].output


def test_a_transposed_convolution_is_overcounted_by_the_square_of_its_stride() -> None:
    true, paper = (measure(MNIST, 64, model).generator for model in ("corrected", "paper"))
    assert [paper[i].forward / true[i].forward for i in (1, 2, 3)] == pytest.approx([4, 1, 4], rel=0.01)


def test_a_tail_with_labels_counts_its_dense_layers_and_spectral_norms_count_nothing() -> None:
    plain, other = (measure(nets, 64).discriminator for nets in (MNIST, build_architecture(1, 28, 10, tail=True)))
    spectral = measure(build_architecture(1, 28, 10, spectral=True), 64).discriminator
    assert [block.forward for block in spectral] == [block.forward for block in plain]
    assert [block.forward for block in other[:4]] == [block.forward for block in plain[:4]]
    # One logit and 64 features come of 2,304 values.
    assert other[4].forward == 65 * plain[4].forward
