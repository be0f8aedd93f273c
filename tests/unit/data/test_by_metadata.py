from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.images import ImageMetadata, ImageSet
from collafuse_flwr.data.partition.partitions import Partition, make_partitions
from collafuse_flwr.data.settings import DataConfig

NAMES = ("Bald", "Smiling", "Hat")


def described(count: int, metadata: ImageMetadata, num_classes: int = 4) -> ImageSet:
    labels = torch.arange(count) % num_classes
    names = tuple(map(str, range(num_classes)))
    return ImageSet(torch.zeros(count, 1, 4, 4, dtype=torch.uint8), labels, names, "test", metadata)


def grouped(name: str, sizes: list[int], *, group_key: str = "") -> ImageSet:
    """Images of groups of these sizes, in mixed order."""
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    group = group[torch.randperm(len(group), generator=named_generator("mixed"))]
    return described(len(group), ImageMetadata(groups={name: group}, group_key=group_key))


def attributed(rows: list[list[int]]) -> ImageSet:
    return described(len(rows), ImageMetadata(torch.tensor(rows, dtype=torch.uint8), NAMES), num_classes=2)


def indices(partition: Partition) -> torch.Tensor:
    return torch.cat([partition.train, partition.held_out])


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(3, 20), min_size=1, max_size=20), num_clients=st.integers(1, 8), seed=st.integers(0, 99)
)
def test_persons_are_with_one_client_and_clients_as_even_as_can_be(
    sizes: list[int], num_clients: int, seed: int
) -> None:
    images, config = grouped("identity", sizes), DataConfig(partition="by_identity")
    if len(sizes) < num_clients:
        with pytest.raises(DataError, match=r"^`num_supernodes` = "):
            make_partitions(images, config, num_clients, seed)
        return
    parts = [indices(p) for p in make_partitions(images, config, num_clients, seed)]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(images)))
    held = [set(images.metadata.groups["identity"][part].tolist()) for part in parts]
    assert sum(map(len, held)) == len(set().union(*held)) == len(sizes)
    # Greedy by size: nobody has more than the smallest client and its own last group together.
    smallest = min(map(len, parts))
    assert all(len(part) - min(sizes[i] for i in own) <= smallest for part, own in zip(parts, held, strict=True))


@pytest.mark.parametrize("kind", ["by_patient", "iid", "dirichlet", "by_class"])
def test_patients_straddle_neither_clients_nor_splits(kind: str) -> None:
    images = grouped("patient", [5] * 24, group_key="patient")
    patient = images.metadata.groups["patient"]
    partitions = make_partitions(images, DataConfig(partition=kind, dirichlet_alpha=10.0, holdout_fraction=0.25), 3, 0)
    sides = [set(patient[side].tolist()) for p in partitions for side in (p.train, p.held_out)]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 24
    assert sum(len(indices(p)) for p in partitions) == len(images)
    if kind in {"by_patient", "iid"}:
        assert [len(p.held_out) for p in partitions] == [10, 10, 10]


def test_three_patients_are_the_least() -> None:
    with pytest.raises(DataError, match=r"^`num_supernodes` = 2 clients need at least 3 patients each, .* are 5"):
        make_partitions(grouped("patient", [5] * 5, group_key="patient"), DataConfig(partition="by_patient"), 2, 0)


def test_attributes_say_who_gets_an_image() -> None:
    images = attributed([[1, 0, 0]] * 10 + [[0, 1, 1]] * 20 + [[1, 1, 0]] * 30 + [[0, 0, 1]] * 5)
    config = DataConfig(
        partition="by_attribute",
        attribute_groups=(
            ("Bald",),
            (
                "Smiling",
                "Hat",
            ),
        ),
    )
    bald, other = (set(indices(p).tolist()) for p in make_partitions(images, config, 2, 0))
    assert bald | other == set(range(65))
    assert not bald & other
    assert set(range(10)) <= bald
    assert set(range(10, 30)) | set(range(60, 65)) <= other
    assert 5 <= len(bald & set(range(30, 60))) <= 25
    unused = replace(config, attribute_groups=(("Hat",),))
    assert set(indices(make_partitions(images, unused, 1, 0)[0]).tolist()) == {*range(10, 30), *range(60, 65)}


def test_with_overlap_no_image_is_trained_on_here_and_held_out_there() -> None:
    images = attributed([[1, 0, 0]] * 10 + [[1, 1, 0]] * 60 + [[0, 1, 0]] * 10)
    config = DataConfig(
        partition="by_attribute",
        attribute_groups=(
            ("Bald",),
            ("Smiling",),
        ),
        allow_overlap=True,
    )
    first, second = make_partitions(images, config, 2, 0)
    assert set(indices(first).tolist()) == set(range(70))
    assert set(indices(second).tolist()) == set(range(10, 80))
    trained, held = (
        set(torch.cat([getattr(p, side) for p in (first, second)]).tolist()) for side in ("train", "held_out")
    )
    assert not trained & held
    assert len(held) == 16


def test_domains_are_dealt_in_turn() -> None:
    domain = torch.arange(60) // 20
    images = described(60, ImageMetadata(groups={"domain": domain}))
    partitions = make_partitions(images, DataConfig(partition="by_domain"), 6, 0)
    assert [set(domain[indices(p)].tolist()) for p in partitions] == [{0}, {1}, {2}, {0}, {1}, {2}]
    assert {len(indices(p)) for p in partitions} == {10}
    by_class = DataConfig(partition="by_domain", within_domain="by_class", classes_per_client=2)
    assert all(len(images.labels[indices(p)].unique()) == 2 for p in make_partitions(images, by_class, 6, 0))
    with pytest.raises(DataError, match=r"^`num_supernodes` = 2 is less than the 3 data sets"):
        make_partitions(images, DataConfig(partition="by_domain"), 2, 0)


@pytest.mark.parametrize("most", [3, 7, 1000])
def test_clients_may_be_limited(most: int) -> None:
    config = DataConfig(partition="iid", max_client_images=most)
    partitions = make_partitions(described(40, ImageMetadata()), config, 4, 0)
    assert [len(indices(p)) for p in partitions] == [min(most, 10)] * 4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            DataConfig(partition="by_identity"),
            r"^`partition` = 'by_identity': .* the identity .* are iid, .*, drop_classes$",
        ),
        (
            DataConfig(partition="by_attribute", attribute_groups=(("Hat",),)),
            r"^`data.attribute_groups` is for 1 clients",
        ),
        (
            DataConfig(partition="by_attribute"),
            r"^`data.attribute_groups` is for 0 clients, but `num_supernodes` = 2",
        ),
        (
            DataConfig(
                partition="by_attribute",
                attribute_groups=(
                    ("Hat",),
                    ("Beard",),
                ),
            ),
            r"^`data.attribute_groups` has 'Beard', which is none of Bald, Smiling, Hat",
        ),
        (
            DataConfig(
                partition="by_attribute",
                attribute_groups=(
                    ("Hat",),
                    ("Bald",),
                ),
            ),
            r"^`num_supernodes` = 2 with `partition` = 'by_attribute' leaves client 0 with 0 images",
        ),
        (DataConfig(max_client_images=2, partition="iid"), r"leaves client 0 with 2 images"),
    ],
)
def test_what_cannot_be_dealt_is_refused(config: DataConfig, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_partitions(attributed([[1, 0, 0]] * 20), config, 2, 0)
    with pytest.raises(DataError, match=r"^`partition` = 'by_attribute': nothing is known of the attributes"):
        make_partitions(described(20, ImageMetadata()), DataConfig(partition="by_attribute"), 2, 0)
