"""A sweep of real runs, two at a time: the same as alone, and reported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from simulations import runners
from simulations.runners.flwr import REPOSITORY
from simulations.sweep.grid import override
from tests.small_runs import SMALL, bytes_of, metrics, small

#: As small as runs can be that leave everything.
TINY: dict[str, Any] = {"data.max_images": 90, "evaluation.tstr": "none", "model": "nano"}


def test_cells_in_parallel_are_the_same_runs_as_alone(tmp_path: Path) -> None:
    common = [
        override(name, value) for name, value in (SMALL | TINY).items() if name not in ("cut_ratio", "num_rounds")
    ]
    arguments = ["-m", "cut_ratio=0.3,1", "num_rounds=1", "runner=local", "output=out", *common]
    command = [
        sys.executable,
        "-m",
        "simulations.sweep",
        *arguments,
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
    ]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "2 of 2 cells are finished" in ended.stdout
    assert (tmp_path / "out" / "report" / "report.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (cell,) = (path for path in (tmp_path / "out").iterdir() if path.name.startswith("collafuse-digits-c0.3-s0-"))
    assert "Quality, disclosure and cost" in (cell / "run.log").read_text()
    runners.run(small(tmp_path / "alone", num_rounds=1, runner="local", **TINY))
    assert metrics(cell) == metrics(tmp_path / "alone")
    assert bytes_of(cell) == bytes_of(tmp_path / "alone")
