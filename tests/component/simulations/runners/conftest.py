from __future__ import annotations

import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

with warnings.catch_warnings():
    # The typer that flwr requires uses a part of click which click 8.5 calls deprecated, once, on import.
    warnings.filterwarnings("ignore", "'click", DeprecationWarning)
    import flwr.app
    import flwr.clientapp
    import flwr.serverapp  # noqa: F401

#: The beginning of every app that a test writes.
HEADER = """
import os, sys, time
from pathlib import Path
import psutil
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from collafuse_flwr.core.errors import DataError
from strategies.retry_grid import RetryGrid

app = ClientApp()
server = ServerApp()

def nodes(grid, context):
    while len(ids := list(grid.get_node_ids())) < context.run_config["num-supernodes"]:
        time.sleep(0.05)
    return ids

def ask(grid, ids, round_=0):
    content = {"ask": ConfigRecord({"round": round_})}
    return list(grid.send_and_receive([Message(RecordDict(content), i, "train") for i in ids], timeout=600))
"""


@pytest.fixture
def write_apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """Write `app` and `server` to a module that can be imported, and give its name."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    written: list[str] = []

    def write(name: str, code: str) -> str:
        written.append(name)
        (tmp_path / f"{name}.py").write_text(HEADER + textwrap.dedent(code))
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)
