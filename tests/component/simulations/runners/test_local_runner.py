from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import DataError, RunFailed
from simulations.runners import run
from simulations.runners.local import run_local
from simulations.runners.result import RunResult

WriteApps = Callable[[str, str], str]
CONFIG = Config.from_flat({"num_supernodes": 3, "runner": "local", "output": "out"})
CLIENT = """
@app.train()
def train(message, context):
    return Message(RecordDict({"who": ConfigRecord({"id": context.node_config["partition-id"]})}), reply_to=message)
"""


def test_a_run_completes(write_apps: WriteApps, tmp_path: Path) -> None:
    name = write_apps(
        "complete_apps",
        CLIENT
        + """
@server.main()
def main(grid, context):
    replies = ask(grid, nodes(grid, context))
    found = sorted(reply.content["who"]["id"] for reply in replies)
    Path("seen").write_text(f"{found} {context.run_config['cut-ratio']}")
""",
    )
    result = run_local(CONFIG, server_app=f"{name}:server", client_app=f"{name}:app")
    assert (tmp_path / "seen").read_text() == "[0, 1, 2] 0.2"
    assert result.folder == tmp_path / "out"


@pytest.mark.parametrize(
    ("statement", "kind", "message"),
    [
        ("raise DataError('no such folder')", DataError, "^no such folder$"),
        ("raise ValueError('a bug')", RunFailed, "^the server stopped with ValueError: a bug$"),
        ("raise SystemExit", RunFailed, "^the server stopped with SystemExit$"),
        ("raise KeyboardInterrupt", KeyboardInterrupt, "^$"),
    ],
)
def test_errors_of_the_server_reach_the_caller(
    write_apps: WriteApps, statement: str, kind: type[BaseException], message: str
) -> None:
    name = write_apps("failing_apps", f"@server.main()\ndef main(grid, context):\n    {statement}\n")
    with pytest.raises(kind, match=message):
        run_local(CONFIG, server_app=f"{name}:server", client_app=f"{name}:app")


def test_the_runner_that_the_settings_name_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    result = RunResult(1, Path("out"))
    monkeypatch.setattr("simulations.runners.local.run_local", lambda config: result)
    assert run(CONFIG) is result


def test_something_else_than_an_app_is_refused(write_apps: WriteApps) -> None:
    name = write_apps("swapped_apps", "")
    with pytest.raises(TypeError, match="is no ServerApp"):
        run_local(CONFIG, server_app=f"{name}:app", client_app=f"{name}:app")
    with pytest.raises(TypeError, match="is no ClientApp"):
        run_local(CONFIG, server_app=f"{name}:server", client_app=f"{name}:server")
