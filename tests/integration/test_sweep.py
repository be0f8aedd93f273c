"""A sweep of real runs, two at a time: as good as alone, and reported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from simulations.cells import override
from simulations.runners.flwr import REPOSITORY
from tests.federation import SMALL, bytes_of, metrics


def command(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of ours in a process of its own."""
    own = [override(name, value) for name, value in SMALL.items() if name != "cut_ratio"]
    line = [sys.executable, "-m", module, *own, "num_rounds=1", "runner=local", *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_cells_in_parallel_are_the_same_runs_as_alone(tmp_path: Path) -> None:
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    ended = command(
        tmp_path, "simulations.sweep", "-m", "cut_ratio=0.3,1", "upload=once,fresh", "output=out", *parallel
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "3 of 3 cells are finished" in ended.stdout
    assert (tmp_path / "out" / "report" / "report.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (cell,) = (path for path in (tmp_path / "out").iterdir() if path.name.startswith("collafuse-digits-c0.3-s0-"))
    assert "Quality, disclosure and cost" in (cell / "run.log").read_text()
    assert command(tmp_path, "simulations.run", "cut_ratio=0.3", "output=alone").returncode == 0
    assert metrics(cell) == metrics(tmp_path / "alone")
    assert bytes_of(cell) == bytes_of(tmp_path / "alone")
