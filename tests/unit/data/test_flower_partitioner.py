"""What Flower Datasets' partitioners deal, from the cache: the same, once, and of these labels alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collafuse_flwr.data.partition import flower_partitioner
from collafuse_flwr.data.partition.flower_partitioner import KEPT, flower_partitions

LABELS = torch.arange(40) % 4
DIRICHLET: dict[str, object] = {"num_partitions": 3, "partition_by": "label", "alpha": 1.0, "min_partition_size": 2}


@pytest.fixture
def dealings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The partitioners that were run."""
    run: list[str] = []
    deal = flower_partitioner._deal

    def counted(name: str, *arguments: Any) -> list[Tensor]:
        run.append(name)
        return deal(name, *arguments)

    monkeypatch.setattr(flower_partitioner, "_deal", counted)
    return run


def deal(folder: Path, **other: Any) -> list[list[int]]:
    usual: dict[str, Any] = {"name": "DirichletPartitioner", "arguments": DIRICHLET, "labels": LABELS, "seed": 0}
    return [part.tolist() for part in flower_partitions(**usual | other, folder=folder)]


def test_they_are_dealt_once_and_read_as_they_were_dealt(tmp_path: Path, dealings: list[str]) -> None:
    first, second = deal(tmp_path / "cache"), deal(tmp_path / "cache")
    assert dealings == ["DirichletPartitioner"]
    assert first == second
    assert sorted(index for part in first for index in part) == list(range(40))


@pytest.mark.parametrize(
    "other",
    [
        {"labels": LABELS.flip(0)},
        {"seed": 1},
        {"arguments": DIRICHLET | {"alpha": 0.5}},
        {"name": "IidPartitioner", "arguments": {"num_partitions": 3}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_other_labels_and_other_ways_are_dealt_anew(tmp_path: Path, dealings: list[str], other: dict[str, Any]) -> None:
    assert deal(tmp_path) != deal(tmp_path, **other)
    assert len(dealings) == 2


def test_what_cannot_be_dealt_is_not_kept(tmp_path: Path, dealings: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="greater than zero"):
            deal(tmp_path, name="IidPartitioner", arguments={"num_partitions": 0})
    assert len(dealings) == 2
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_costs_the_dealing(tmp_path: Path, dealings: list[str]) -> None:
    first = deal(tmp_path)
    (kept,) = tmp_path.iterdir()
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    assert deal(tmp_path) == first == deal(tmp_path)
    assert len(dealings) == 2


def test_a_cache_that_cannot_be_written_costs_the_dealing(tmp_path: Path, dealings: list[str]) -> None:
    (tmp_path / "file").touch()
    assert deal(tmp_path / "file") == deal(tmp_path / "file")
    assert len(dealings) == 2


def test_old_dealings_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_partitioner, "_deal", lambda *_: [LABELS])
    for seed in range(KEPT + 3):
        deal(tmp_path, seed=seed)
    assert len(list(tmp_path.iterdir())) == KEPT
