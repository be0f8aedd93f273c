"""How far images are named from what a run released: by client, from the releases that its row tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.images import normalize
from collafuse_flwr.privacy.reidentification import reidentification_rate
from collafuse_flwr.runs import reidentification as exposure
from collafuse_flwr.runs.reidentification import reidentification
from tests.small_runs import small


def exposed(tmp_path: Path, cuts: list[int], releases: list[int | None]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What all clients, and each, are exposed to in a federation of 120 training images."""
    config = small(tmp_path)
    data = federation_data(config.data, 3, 0)
    clients = [{"client": i, "cut_step": k, "releases": n} for i, (k, n) in enumerate(zip(cuts, releases, strict=True))]
    return reidentification(config, data, clients), clients


def test_clean_images_are_named_and_nothing_is_where_nothing_left(tmp_path: Path) -> None:
    together, clients = exposed(tmp_path, [0, 19, 20], [1, 1, 0])
    assert clients[0]["reid"] == 1
    assert clients[1]["reid"] < 0.5
    assert clients[2]["reid"] is None
    data = federation_data(small(tmp_path).data, 3, 0)
    chance = 1 / sum(len(partition.train) for partition in data.partitions)
    assert {client["reid_chance"] for client in clients} == {chance}
    assert together == {"reid": 1, "reid_chance": chance, "reid_candidates": round(1 / chance)}


def test_each_release_tells_more(tmp_path: Path) -> None:
    rates = [exposed(tmp_path, [17] * 3, [n] * 3)[0]["reid"] for n in (1, 10, 100)]
    assert rates == sorted(rates)
    assert rates[0] + 0.1 < rates[2]


@pytest.mark.parametrize("releases", [0, None])
def test_a_federation_that_released_nothing(tmp_path: Path, releases: int | None) -> None:
    together, clients = exposed(tmp_path, [20] * 3, [releases] * 3)
    assert together["reid"] is None
    assert all(client["reid"] is None for client in clients)


def test_the_order_of_clients_does_not_matter(tmp_path: Path) -> None:
    """A row is about its client's own images, also when others are missing."""
    config = small(tmp_path)
    data = federation_data(config.data, 3, 0)
    rows = [{"client": i, "cut_step": 15, "releases": 1} for i in (2, 0)]
    reidentification(config, data, rows)
    _, every = exposed(tmp_path, [15] * 3, [1] * 3)
    assert [rows[1]["reid"], rows[0]["reid"]] == [every[0]["reid"], every[2]["reid"]]
    assert torch.tensor([row["reid"] for row in rows]).gt(0.2).all()


@pytest.mark.parametrize(("most", "count"), [(120, 120), (119, 119), (40, 39), (3, 3)])
def test_candidates_are_capped_and_every_client_has_targets_among_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, count: int
) -> None:
    """Three clients of unequal size: as many of each as fit, of the smaller ones all; clean images are still named."""
    attacked: list[tuple[Tensor, Tensor]] = []

    def watch(candidates: Tensor, targets: Tensor, alpha_bar: float, **named: Any) -> float:
        attacked.append((candidates, targets))
        return reidentification_rate(candidates, targets, alpha_bar, **named)

    monkeypatch.setattr(exposure, "reidentification_rate", watch)
    monkeypatch.setattr(exposure, "MAX_CANDIDATES", most)
    together, clients = exposed(tmp_path, [0, 0, 0], [1, 1, 1])
    assert together == {"reid": 1, "reid_chance": 1 / count, "reid_candidates": count}
    assert [client["reid_chance"] for client in clients] == [1 / count] * 3
    data = federation_data(small(tmp_path).data, 3, 0)
    share = max(len(targets) for _, targets in attacked)
    for (candidates, targets), partition in zip(attacked, data.partitions, strict=True):
        assert len(candidates) == count
        own = normalize(data.images.images[partition.train])
        assert len(targets) == min(len(own), share)
        assert all((own == target).flatten(1).all(dim=1).any() for target in candidates[targets])


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(1, 200))
def test_the_share_of_a_client_is_the_largest_that_fits(sizes: list[int], total: int) -> None:
    def together(share: int) -> int:
        return sum(min(size, share) for size in sizes)

    share = exposure._equal_share(sizes, total)
    assert together(share) <= max(total, len(sizes))
    assert together(share) == sum(sizes) or together(share + 1) > total
