"""Clients that lack classes and differ in size."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import DataError, SettingError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.images import ImageMetadata, ImageSet
from collafuse_flwr.data.partition.partitions import Partition, make_partitions
from collafuse_flwr.data.settings import DataConfig
from tests.small_runs import dotted

#: Scenario 2 of HuSCF-GAN, with its shares of 1.
MIXED: dict[str, Any] = {
    "data.missing_classes": [[0, 0.25], [2, 0.3], [3, 0.1], [4, 0.1]],
    "data.size_skew": [[1, 0.7], [0.6667, 0.3]],
}


def labelled(counts: list[int], domains: int = 1) -> ImageSet:
    """Blank images, `counts[c]` of class c, in mixed order, and again for every domain."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).repeat(domains)
    domain = torch.arange(domains).repeat_interleave(sum(counts))
    order = torch.randperm(len(labels), generator=named_generator("order"))
    images = torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8)
    names = tuple(map(str, range(len(counts))))
    return ImageSet(images, labels[order], names, "test", ImageMetadata(groups={"domain": domain[order]}))


def indices(partition: Partition) -> torch.Tensor:
    return torch.cat([partition.train, partition.held_out])


def dealt(images: ImageSet, num_clients: int, seed: int = 0, **config: Any) -> list[torch.Tensor]:
    settings = {"partition": "drop_classes"} | dotted(config)
    return [indices(p) for p in make_partitions(images, Config.from_flat(settings).data, num_clients, seed)]


def test_as_many_clients_as_configured_lack_classes_and_images() -> None:
    images = labelled([600] * 10)
    parts = dealt(images, 100, data__max_client_images=60, **MIXED)
    lacking = Counter(10 - len(images.labels[part].unique()) for part in parts)
    assert lacking == {0: 34, 2: 40, 3: 13, 4: 13}
    sizes = Counter(map(len, parts))
    assert sizes == {60: 70, 40: 30}
    for part in parts:
        counts = images.labels[part].bincount(minlength=10)
        assert counts[counts > 0].max() - counts[counts > 0].min() <= 1, "the classes that it has are even"
    lengths = torch.tensor([len(part) for part in parts], dtype=torch.float64)
    lacks = torch.tensor([len(images.labels[part].unique()) for part in parts], dtype=torch.float64)
    assert abs(float(torch.corrcoef(torch.stack([lengths, lacks]))[0, 1])) < 0.4, "sizes are drawn apart from classes"


def test_who_wants_more_of_a_class_than_there_is_gets_its_part() -> None:
    """Everybody wants an equal share of all images, but classes are not in equal demand."""
    parts = dealt(labelled([100] * 10), 20, data__missing_classes=[[4, 1]])
    assert all(35 <= len(part) <= 50 for part in parts)


def test_without_restrictions_everything_is_dealt_evenly() -> None:
    images = labelled([90, 30, 60])
    parts = dealt(images, 6, data__missing_classes=[[0, 1]])
    assert [images.labels[part].bincount().tolist() for part in parts] == [[15, 5, 10]] * 6


@settings(max_examples=30)
@given(
    counts=st.lists(st.integers(0, 60), min_size=3, max_size=6).filter(lambda counts: sum(counts) > 0),
    num_clients=st.integers(1, 9),
    dropped=st.sampled_from([[[0, 1]], [[1, 1]], [[0, 2], [1, 1], [2, 5]]]),
    parts=st.sampled_from([[[1, 1]], [[0.5, 1], [1, 3]]]),
    seed=st.integers(0, 99),
)
def test_parts_are_disjoint_and_repeat_or_are_refused_in_one_line(
    counts: list[int], num_clients: int, dropped: list[list[float]], parts: list[list[float]], seed: int
) -> None:
    images, data_error, first = labelled(counts), "", []
    try:
        first = dealt(images, num_clients, seed, data__missing_classes=dropped, data__size_skew=parts)
    except DataError as error:
        data_error = str(error)
    if data_error:
        assert data_error.startswith(("`num_supernodes`", "`data.missing_classes`"))
        assert "\n" not in data_error
        return
    every = torch.cat(first)
    assert len(every) == len(every.unique())
    again = dealt(images, num_clients, seed, data__missing_classes=dropped, data__size_skew=parts)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_other_seeds_drop_other_classes() -> None:
    images = labelled([60] * 10)
    first, other = (
        [images.labels[part].unique().tolist() for part in dealt(images, 10, seed, data__missing_classes=[[3, 1]])]
        for seed in (0, 1)
    )
    assert first != other


def test_each_domain_is_dealt_so() -> None:
    images = labelled([40] * 10, domains=2)
    parts = dealt(
        images, 8, partition="by_domain", data__within_domain="drop_classes", data__missing_classes=[[1, 1], [5, 3]]
    )
    domain = images.metadata.groups["domain"]
    assert [set(domain[part].tolist()) for part in parts] == [{i % 2} for i in range(8)]
    for own in (parts[::2], parts[1::2]):
        assert sorted(len(images.labels[part].unique()) for part in own) == [5, 5, 5, 9]


def test_classes_that_are_not_there_cannot_be_dropped() -> None:
    config = DataConfig(partition="drop_classes", missing_classes=((0, 1), (3, 1)))
    with pytest.raises(
        DataError,
        match=r"^`data.missing_classes` drops 3 classes, but only 3 have images; expected at most 2$",
    ):
        make_partitions(labelled([20, 0, 20, 20]), config, 2, 0)


NO_PAIRS: list[object] = ["2:1", [2], [[2]], [["x", 1]], [[2, 1, 1]], [[math.nan, 1]], [[2, math.inf]], {"2": 1}]


@pytest.mark.parametrize("value", [*NO_PAIRS, "", [], [[1.5, 1]], [[-1, 1]], [[2, 0]], [[2, -1]], [[2, 1], [2, 1]]])
def test_dropped_classes_that_are_no_counts_with_shares_are_refused(value: object) -> None:
    with pytest.raises(SettingError, match=r"^`data.missing_classes` = [^\n]*\[\[0,0.3\],\[2,0.7\]\]$"):
        Config.from_flat({"partition": "drop_classes", "data.missing_classes": value})


@pytest.mark.parametrize("value", [*NO_PAIRS, "", [], [[0, 1]], [[1.1, 1]], [[1, 0]], [[0.5, 1], [0.5, 2]]])
def test_sizes_that_are_no_parts_with_shares_are_refused(value: object) -> None:
    with pytest.raises(SettingError, match=r"^`data.size_skew` = [^\n]*\[\[\d,0.\d\],\[\d[^\n]*\]\]$"):
        Config.from_flat({"partition": "drop_classes", "data.size_skew": value})
