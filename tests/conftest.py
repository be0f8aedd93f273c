from __future__ import annotations

import atexit
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported anywhere: one thread, so that equal work gives equal bits beside other processes.
os.environ["OMP_NUM_THREADS"] = "1"

# What the session's workers inherit.
if "PYTEST_XDIST_WORKER" not in os.environ:
    # Where no bytecode is kept, each of the tests' many processes compiles torch and Flower anew: 9 s instead of 4.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # Decoded images of tests go to a folder of this session.
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="tests-cache-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

with warnings.catch_warnings():
    # The typer that flwr requires uses parts of click which click calls deprecated, once, on import.
    warnings.filterwarnings("ignore", "'click", DeprecationWarning)
    import flwr.app
    import flwr.clientapp
    import flwr.serverapp  # noqa: F401

import hypothesis
import pytest
import torch
from torch import Tensor

# How long an example takes depends on what else runs.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


#: The marker of each folder: `pytest -m unit` is what can be run while one types.
TIERS = {
    "unit": "unit",
    "component": "component",
    "adversarial": "component",
    "examples": "component",
    "integration": "integration",
    "faults": "faults",
    "page_commands": "pages",
}


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A worker for each core, and one more for what waits for Flower: no unit test does, and each worker imports torch.

    More than eight would take more memory than the tests take time.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores if config.option.markexpr == "unit" else cores + 1)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out, for `-m unit` and the like, what has no test of the tier: importing it takes longer than the tests."""
    folder = collection_path.relative_to(Path(__file__).parent).parts[:1]
    tier = TIERS.get(*folder) if folder else None
    return True if tier is not None and config.option.markexpr in {*TIERS.values()} - {tier} else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test by its folder."""
    for item in items:
        item.add_marker(TIERS[item.path.relative_to(Path(__file__).parent).parts[0]])


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's digits in [-1,1]: images and labels to train on, then those of the 20 % held out."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow, and few workers need it
    from sklearn.model_selection import train_test_split  # noqa: PLC0415 - slow, as above

    data = load_digits()
    train, test = train_test_split(range(len(data.target)), test_size=0.2, random_state=0, stratify=data.target)
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(data.target)
    return images[train], labels[train], images[test], labels[test]


@pytest.fixture
def ray_garbage() -> Iterator[None]:
    """Collect what Ray leaves to the garbage collector here, before its warnings come up in another test."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def forked_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An interpreter, with Flower's commands beside it, that is a fork of one which has imported what is slow."""
    # Not in pytest's folder: the path of a socket has a hundred characters at most.
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        command = [sys.executable, "-m", "tests.warm", folder]
        with subprocess.Popen(command, cwd=Path(__file__).parents[1], start_new_session=True) as server:
            try:
                while not Path(folder, "ready").exists():
                    assert server.poll() is None
                    time.sleep(0.05)
                yield str(Path(folder, "bin", "python"))
            finally:
                server.terminate()


@pytest.fixture
def warm(forked_python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes that this one starts be forks."""
    monkeypatch.setattr(sys, "executable", forked_python)


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of somebody else's networks."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "somebodys.py").write_text(
        textwrap.dedent("""
            import torch

            class Net(torch.nn.Module):
                def __init__(self, shape):
                    super().__init__()
                    self.shape = shape
                    self.scale = torch.nn.Parameter(torch.randn(shape.channels))

                def forward(self, x, t, class_labels=None):
                    return x * self.scale.view(-1, 1, 1)

            class Halved(Net):
                def forward(self, x, t, class_labels=None):
                    return x[:, :, ::2]

            class Unlabelled(Net):
                def forward(self, x, t):
                    return x

            class family:
                Net = Net

            nothing = None
            print_it = print

            def broken(shape):
                raise RuntimeError("its own mistake")

            def misspelt(shape):
                return torch.nn.Liner(1, 1)
        """)
    )
    monkeypatch.delitem(sys.modules, "somebodys", raising=False)
    return "somebodys"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the figures that tests recorded with `record_property`."""
    reports = [report for group in ("passed", "failed") for report in terminalreporter.getreports(group)]
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: {name} = {value}"
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
    ]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.line(line)
