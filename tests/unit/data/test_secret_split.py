"""What a deployed client trains on and holds out."""

from __future__ import annotations

import torch

from collafuse_flwr.data.images import ImageMetadata, LazyImageDataset
from collafuse_flwr.data.partition.partitions import Partition
from collafuse_flwr.data.partition.secret_split import secret_split
from collafuse_flwr.data.settings import DataConfig

SECRET = bytes(range(16))


def split(count: int, patients: list[int] | None = None, secret: bytes = SECRET, **settings: float) -> Partition:
    groups = (
        {} if patients is None else {"patient": torch.arange(len(patients)).repeat_interleave(torch.tensor(patients))}
    )
    metadata = ImageMetadata(groups=groups, group_key="patient" if groups else "")
    source = LazyImageDataset(torch.zeros(count, dtype=torch.int64), ("one",), lambda keep: keep, metadata=metadata)
    return secret_split(source, DataConfig(**settings), secret)  # type: ignore[arg-type]


def test_both_parts_are_beginnings_of_one_order_from_its_two_ends() -> None:
    order = split(50, holdout_fraction=0.9)
    whole = [*order.held_out.tolist(), *order.train.flip(0).tolist()]
    assert sorted(whole) == list(range(50))
    for held, most, sizes in ((0.2, 0, (40, 10)), (0.5, 0, (25, 25)), (0.2, 20, (16, 4)), (0.01, 5, (5, 1))):
        own = split(50, holdout_fraction=held, max_images=most)
        assert (len(own.train), len(own.held_out)) == sizes
        assert own.held_out.tolist() == whole[: sizes[1]]
        assert own.train.tolist() == whole[::-1][: sizes[0]]


def test_the_order_is_the_secrets() -> None:
    assert split(50).train.tolist() == split(50).train.tolist()
    assert set(split(50).train.tolist()) != set(split(50, secret=bytes(16)).train.tolist())


def test_images_that_are_added_behind_change_nothing_among_the_others() -> None:
    before, after = split(50), split(60)
    assert [i for i in after.train.tolist() if i in set(before.train.tolist())] == [
        i for i in before.train.tolist() if i in set(after.train.tolist())
    ]


def test_patients_straddle_no_split() -> None:
    sizes = [1, 5, 2, 7, 3, 4, 6, 2, 5, 5]
    patient = torch.arange(10).repeat_interleave(torch.tensor(sizes))
    own = split(40, sizes, holdout_fraction=0.3)
    held, train = (set(patient[part].tolist()) for part in (own.held_out, own.train))
    assert (len(held), len(train)) == (3, 7)
    assert not held & train
    few = split(40, sizes, holdout_fraction=0.3, max_images=20)
    assert len(few.train) <= 14
    assert own.train[: len(few.train)].tolist() == few.train.tolist()
    assert own.held_out[: len(few.held_out)].tolist() == few.held_out.tolist()


def test_no_less_than_two_images_and_one() -> None:
    least = split(50, max_images=1)
    assert (len(least.train), len(least.held_out)) == (2, 1)
