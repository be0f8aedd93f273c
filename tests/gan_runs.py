"""Runs of GANs that are as small as they can be, and what they left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.runs.run_layout import RunLayout
from tests.small_runs import run_strategy, small

TINY: dict[str, Any] = {"gan.width": 1, "gan.batch_size": 6, "data.max_images": 36, "evaluation.num_samples": 6}
TWO_BATCHES: dict[str, dict[str, Any]] = {"mdgan": {"mdgan.k": 2}}


def settings(folder: Path, strategy: str, **others: Any) -> Config:
    return small(folder, **(TINY | {"strategy": strategy} | others))


def state(folder: Path, client: int) -> dict[str, Tensor]:
    return ClientStore(RunLayout(folder).client(client).folder).load(before=100)[1]


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def straight_runs(tmp_path_factory: pytest.TempPathFactory, *strategies: str) -> dict[str, Path]:
    """The folder of a run of two rounds with three clients, of each strategy."""
    folders = {strategy: tmp_path_factory.mktemp(strategy) for strategy in strategies}
    for strategy, folder in folders.items():
        run_strategy(settings(folder, strategy, **TWO_BATCHES.get(strategy, {})))
    return folders
