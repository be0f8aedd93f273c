"""However a run is started, it computes the same, and leaves no process behind."""

from __future__ import annotations

import os
import time
from pathlib import Path
from uuid import uuid4

import pytest

from simulations import runners
from simulations.runners.processes import descendants
from tests.small_runs import bytes_of, metrics, small

pytestmark = [
    # Ray opens sockets, files and processes that it leaves to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("ray_garbage"),
]

SETTINGS = {
    "num_rounds": 2,
    "client.init_from": "backbone",
    "client.start_round": 2,
    "model": "nano",
    "data.max_images": 60,
    "evaluation.tstr": "none",
}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runners.run(small(tmp_path_factory.mktemp("local"), runner="local", **SETTINGS)).folder


def marked(mark: str) -> dict[int, str]:
    """The processes that were started with a mark in their environment, also if their parents are gone."""
    commands = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and mark.encode() in (folder / "environ").read_bytes():
                commands[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return commands


@pytest.mark.parametrize("runner", ["ray", "flwr"], ids=["ray with a worker for each CPU", "flwr run"])
def test_every_runner_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: Path, runner: str
) -> None:
    mark, before = uuid4().hex, descendants(os.getpid())
    monkeypatch.setenv("COLLAFUSE_TEST", mark)
    result = runners.run(small(tmp_path / "out", runner=runner, **SETTINGS))
    deadline = time.monotonic() + 60
    # A process that is just about to end, or to begin, is none that was left behind.
    while (left := (marked(mark), descendants(os.getpid()) - before)) != ({}, set()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == ({}, set())
    assert result.folder == tmp_path / "out"
    assert metrics(tmp_path / "out") == metrics(local)
    ours, theirs = bytes_of(tmp_path / "out"), bytes_of(local)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_stacks_in_workers_are_those_in_this_process(tmp_path: Path) -> None:
    stacks = SETTINGS | {"num_rounds": 1, "resources.stack_clients": 2}
    del stacks["client.init_from"], stacks["client.start_round"]
    folders = [runners.run(small(tmp_path / name, runner=name, **stacks)).folder for name in ("ray", "local")]
    ours, theirs = map(bytes_of, folders)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert metrics(folders[0]) == metrics(folders[1])
