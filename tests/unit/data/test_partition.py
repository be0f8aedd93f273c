from dataclasses import replace

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.images import ImageSet
from collafuse_flwr.data.partition.partitions import Partition, make_partitions, stratified_holdout
from collafuse_flwr.data.settings import DataConfig

KINDS = ("iid", "dirichlet", "by_class")
DIGITS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def labelled(counts: list[int]) -> ImageSet:
    """Blank images, `counts[c]` of class c, in mixed order."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=named_generator("order"))]
    names = tuple(map(str, range(len(counts))))
    return ImageSet(torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8), labels, names, "test")


def indices(partition: Partition) -> torch.Tensor:
    return torch.cat([partition.train, partition.held_out])


def same(first: tuple[Partition, ...], second: tuple[Partition, ...]) -> bool:
    return all(
        torch.equal(a.train, b.train) and torch.equal(a.held_out, b.held_out)
        for a, b in zip(first, second, strict=True)
    )


@settings(max_examples=30)
@given(
    kind=st.sampled_from(KINDS),
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(lambda counts: sum(counts) > 0),
    num_clients=st.integers(1, 12),
    alpha=st.sampled_from([1e-300, 1e-3, 0.3, 100.0]),
    each=st.integers(1, 6),
    held_out=st.floats(0.01, 0.9),
    seed=st.integers(0, 2**31),
)
def test_partitions_are_disjoint_cover_and_repeat_or_are_refused_in_one_line(
    *, kind: str, counts: list[int], num_clients: int, alpha: float, each: int, held_out: float, seed: int
) -> None:
    images = labelled(counts)
    config = DataConfig(partition=kind, dirichlet_alpha=alpha, classes_per_client=each, holdout_fraction=held_out)
    data_error, partitions = "", tuple[Partition, ...]()
    try:
        partitions = make_partitions(images, config, num_clients, seed)
    except DataError as error:
        data_error = str(error)
    event("refused" if data_error else "dealt")
    if data_error:
        assert data_error.startswith(("`num_supernodes`", "`data.dirichlet_alpha`", "`data.classes_per_client`"))
        assert "\n" not in data_error
        return
    assert len(partitions) == num_clients
    assert torch.equal(torch.cat([indices(p) for p in partitions]).sort().values, torch.arange(len(images)))
    for partition in partitions:
        assert len(partition.train) >= 2
        assert len(partition.held_out) >= 1
        assert abs(len(partition.held_out) - held_out * len(indices(partition))) <= 2
        for part in (partition.train, partition.held_out):
            assert part.dtype == torch.int64
            assert torch.equal(part, part.sort().values)
        if kind == "by_class":
            assert len(torch.unique(images.labels[indices(partition)])) <= each
    assert same(partitions, make_partitions(images, config, num_clients, seed))


@pytest.mark.parametrize("kind", KINDS)
def test_other_seeds_deal_otherwise(kind: str) -> None:
    images, config = labelled(DIGITS), DataConfig(partition=kind)
    first, other = (make_partitions(images, config, 10, seed) for seed in (0, 1))
    assert not any(torch.equal(a.train, b.train) for a, b in zip(first, other, strict=True))
    if kind != "iid":
        counts = [
            [images.labels[indices(p)].bincount(minlength=10).tolist() for p in parts] for parts in (first, other)
        ]
        assert counts[0] != counts[1]  # not only which images of a class a client holds, but which classes


def test_iid_shares_are_equal() -> None:
    sizes = {len(indices(p)) for p in make_partitions(labelled(DIGITS), DataConfig(partition="iid"), 10, 0)}
    assert sizes <= {179, 180}


def test_alpha_sets_the_skew() -> None:
    def largest_share(alpha: float) -> float:
        images = labelled(DIGITS)
        parts = make_partitions(images, DataConfig(partition="dirichlet", dirichlet_alpha=alpha), 5, 0)
        counts = [images.labels[indices(p)].bincount(minlength=10).double() for p in parts]
        return float(torch.stack([(c.max() / c.sum()) for c in counts]).mean())

    assert largest_share(1000.0) < 0.15
    assert largest_share(0.1) > 0.25


@pytest.mark.parametrize(("each", "num_clients"), [(2, 5), (2, 10), (3, 4), (10, 3), (1, 10), (3, 7)])
def test_by_class_uses_every_class_evenly(each: int, num_clients: int) -> None:
    images = labelled(DIGITS)
    config = DataConfig(partition="by_class", classes_per_client=each)
    held = torch.stack(
        [images.labels[indices(p)].bincount(minlength=10) > 0 for p in make_partitions(images, config, num_clients, 0)]
    )
    assert held.sum(1).tolist() == [each] * num_clients
    assert held.sum(0).min() >= each * num_clients // 10 >= 1
    assert held.sum(0).max() <= -(-each * num_clients // 10)


@settings(max_examples=50)
@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(lambda counts: sum(counts) >= 3),
    share=st.floats(0.01, 0.9),
    seed=st.integers(0, 2**31),
)
def test_held_out_images_are_drawn_alike_from_every_class(counts: list[int], share: float, seed: int) -> None:
    labels, everything = labelled(counts).labels, torch.arange(sum(counts))
    partition = stratified_holdout(labels, everything, share, named_generator(seed))
    drawn = labels[partition.held_out].bincount(minlength=len(counts)).double()
    rate = len(partition.held_out) / sum(counts)
    assert (drawn - rate * torch.tensor(counts)).abs().max() < 1


def test_too_many_clients_are_refused() -> None:
    for kind in KINDS:
        with pytest.raises(DataError, match=r"^`num_supernodes` = 4 .* at least 3 images each.* there are 11"):
            make_partitions(labelled([5, 6]), DataConfig(partition=kind), 4, 0)


def test_classes_that_cannot_be_dealt_are_refused() -> None:
    config, images = DataConfig(partition="by_class"), labelled([20, 20, 20, 20, 20, 0])
    with pytest.raises(DataError, match=r"^`data.classes_per_client` = 6 .* the 5 classes that have images"):
        make_partitions(images, replace(config, classes_per_client=6), 2, 0)
    with pytest.raises(
        DataError, match=r"^`data.classes_per_client` = 2 leaves 1 of 5 classes .* raise it to 3 or more"
    ):
        make_partitions(images, config, 2, 0)
    assert len(make_partitions(images, replace(config, classes_per_client=3), 2, 0)) == 2
    for counts in ([40, 1], [40, 2]):
        with pytest.raises(DataError, match=r"^`data.classes_per_client` = 1 .* few images among too many"):
            make_partitions(labelled(counts), replace(config, classes_per_client=1), 4, 0)


def test_dirichlet_that_cannot_be_satisfied_is_refused() -> None:
    config = DataConfig(partition="dirichlet", dirichlet_alpha=1e-4)
    with pytest.raises(DataError, match=r"^`data.dirichlet_alpha` = 0.0001 does not give each of 10 clients"):
        make_partitions(labelled([30, 30]), config, 10, 0)
