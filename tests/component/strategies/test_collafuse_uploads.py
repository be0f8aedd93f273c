"""What a client of CollaFuse uploads, how often, and with what."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.small_runs import federate, metrics, small


@pytest.mark.parametrize(("upload", "releases"), [("fixed", 1), ("resampled", 3), ("official", 3)])
def test_an_image_leaves_once_or_with_new_noise_in_every_round(tmp_path: Path, upload: str, releases: int) -> None:
    federate(small(tmp_path, upload__noise=upload, num_rounds=3))
    rows = metrics(tmp_path)
    assert rows[-1]["evaluation"]["0"]["releases"] == releases
    uploaded = [row["bytes_up"]["0"] > 2000 for row in rows]
    assert uploaded == [True, upload != "fixed", upload != "fixed"]


def test_a_client_releases_no_more_than_it_may(tmp_path: Path) -> None:
    """Whatever the server asks for: the fourth copy never leaves, and training goes on with what is there."""
    federate(small(tmp_path, upload__noise="resampled", num_rounds=5, upload__max_releases=3))
    rows = metrics(tmp_path)
    assert rows[-1]["evaluation"]["0"]["releases"] == 3
    assert [row["bytes_up"]["0"] > 2000 for row in rows] == [True] * 3 + [False] * 2
    assert all(row["server"]["steps"] > 0 for row in rows)


def test_fixed_copies_are_so_many_releases(tmp_path: Path) -> None:
    strategy = federate(small(tmp_path, upload__draws_per_image=3))
    assert metrics(tmp_path)[-1]["evaluation"]["0"]["releases"] == 3
    assert len(strategy.pool) == 3 * sum(
        client_info.num_images for client_info in strategy.client_manager.client_infos.values()
    )


def test_labels_stay_with_the_client_when_they_are_not_shared(tmp_path: Path) -> None:
    strategy = federate(small(tmp_path, upload__share_labels=False))
    assert strategy.pool.labels_of(0) is None
    assert not strategy.backbone.conditional
    assert "class_embedding.weight" not in strategy.backbone.network.state_dict()
    samples = load_file(tmp_path / "clients" / "0" / "samples.safetensors")
    assert int(samples["labels"].min()) >= 0
