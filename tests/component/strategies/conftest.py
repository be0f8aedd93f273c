"""A finished run to generate with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from simulations.runners.local import run_local
from tests.generating import CUTS
from tests.small_runs import small


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    return run_local(small(folder, cut__client_ratios=CUTS, num_rounds=1, evaluation__tstr="none")).folder


@pytest.fixture
def trained(finished: Path, tmp_path: Path) -> Path:
    """A copy to generate in."""
    return shutil.copytree(finished, tmp_path / "run")
