"""Clusters of clients on made features, whose clusters are known, and what must hold of any clustering."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.gan.split_gan.clustering import assign, flat, follow, stats

TRUE = [0, 0, 0, 0, 1, 1, 1, 2, 2]


def made(distance: float, batches: int = 5, noise: float = 1.0, values: int = 200) -> Tensor:
    """(batches, 9, values): three clusters at random centres, clients that differ, and noise from batch to batch."""
    generator = named_generator("features")
    centres = torch.randn((3, values), generator=generator)
    own = torch.randn((9, values), generator=generator)
    steady: Tensor = distance * centres[TRUE] + own
    return steady + noise * torch.randn((batches, 9, values), generator=generator)


def partition(labels: list[int]) -> set[frozenset[int]]:
    return {frozenset(i for i, label in enumerate(labels) if label == name) for name in set(labels)}


def test_features_by_hand() -> None:
    activations = torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]], [[[5.0, 7.0]], [[2.0, 4.0]]]])
    assert flat(activations).tolist() == [3.0, 5.0, 1.0, 2.0]
    assert stats(activations).tolist() == pytest.approx([4.0, 1.5, 5**0.5, 2.75**0.5])
    assert flat(activations.bfloat16()).dtype == torch.float32
    moved = activations.flip(3)
    assert torch.equal(stats(moved), stats(activations))
    assert not torch.equal(flat(moved), flat(activations))


@pytest.mark.parametrize("num_clusters", [3, 0])
def test_clusters_that_are_there_are_recovered(num_clusters: int) -> None:
    features = made(distance=2)
    assert partition(assign(features, num_clusters)) == partition(TRUE)
    assert partition(assign(features.mean(dim=0), num_clusters)) == partition(TRUE)


def test_without_structure_there_is_one_cluster() -> None:
    assert assign(made(distance=0), 0) == [0] * 9
    assert assign(torch.ones(4, 3), 0) == [0] * 4
    assert assign(torch.ones(1, 3), 0) == [0]
    assert assign(torch.tensor([[0.0], [9.0]]), 0) == [0, 0]


def test_several_batches_tell_what_one_does_not() -> None:
    features = made(distance=1.5, batches=40, noise=8)
    assert partition(assign(features, 3)) == partition(TRUE)
    assert any(partition(assign(batch, 3)) != partition(TRUE) for batch in features[:3])


@pytest.mark.parametrize("num_clusters", [4, 0])
def test_labels_go_with_their_clients(num_clusters: int) -> None:
    features = made(distance=1.2)
    labels = assign(features, num_clusters)
    assert labels == assign(features, num_clusters)
    for seed in range(3):
        order = torch.randperm(9, generator=named_generator("order", seed))
        assert assign(features[:, order], num_clusters) == [labels[i] for i in order.tolist()]


def test_a_number_that_is_given_is_kept_where_so_many_clients_differ() -> None:
    assert len(set(assign(made(distance=0), 9))) == 9
    assert assign(made(distance=2), 1) == [0] * 9
    assert len(set(assign(torch.tensor([[1.0], [1.0], [2.0]]), 3))) == 2


def test_what_cannot_be_clustered_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`num_clusters` = 3 is not in 0\.\.2"):
        assign(torch.zeros(2, 4), 3)
    with pytest.raises(ValueError, match="not finite"):
        assign(torch.tensor([[1.0], [torch.nan]]), 1)


def test_clusters_keep_their_names() -> None:
    before = {10: 0, 11: 0, 12: 4, 13: 4, 14: 4, 15: 2}
    assert follow(before, {10: 1, 11: 1, 12: 0, 13: 0, 14: 0, 15: 2}) == before
    # 13 moves, 11 is absent, 16 is new, and two that were never seen make a cluster of their own.
    now = follow(before, {10: 2, 12: 0, 13: 2, 14: 0, 15: 1, 16: 0, 20: 3, 21: 3})
    assert now == {10: 0, 12: 4, 13: 0, 14: 4, 15: 2, 16: 4, 20: 5, 21: 5}


def test_a_cluster_that_splits_keeps_its_name_in_the_larger_part() -> None:
    assert follow(dict.fromkeys(range(5), 3), {0: 0, 1: 0, 2: 1, 3: 1, 4: 1}) == {0: 4, 1: 4, 2: 3, 3: 3, 4: 3}
    assert follow({0: 1, 1: 1, 2: 0}, {0: 0, 1: 0, 2: 0}) == {0: 1, 1: 1, 2: 1}


def test_names_do_not_depend_on_how_clusters_are_numbered_or_ordered() -> None:
    before = {0: 0, 1: 1, 2: 0, 3: 1}
    names = follow(before, {0: 0, 1: 0, 2: 1, 3: 1})
    assert follow(before, {3: 0, 2: 0, 1: 1, 0: 1}) == names
    assert follow({}, {5: 7, 3: 2, 4: 7}) == {5: 1, 3: 0, 4: 1}
