from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import ray
from ray._private import services

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import DataError, SettingError
from simulations.runners import ray as runner
from simulations.runners import ray_start
from simulations.runners.processes import descendants
from simulations.runners.ray import run_ray
from simulations.runners.ray_start import patient_start
from simulations.runners.resources import machine

WriteApps = Callable[[str, str], str]
CPUS = machine()[0]
#: Two workers.
CONFIG = Config.from_flat({"num_supernodes": 6, "resources.client_num_cpus": CPUS / 2, "output": "out"})

pytestmark = [
    # Ray opens sockets, files and processes that it leaves to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("ray_garbage"),
]


def assert_nothing_is_left(before: set[int]) -> None:
    deadline = time.monotonic() + 10
    while (left := descendants(os.getpid()) - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    assert not ray.is_initialized()


def test_a_client_that_kills_its_worker_harms_nobody_else(write_apps: WriteApps, tmp_path: Path) -> None:
    name = write_apps(
        "dying_apps",
        """
@app.train()
def train(message, context):
    partition, round_ = context.node_config["partition-id"], message.content["ask"]["round"]
    if (partition, round_) == (2, 1):
        os._exit(1)
    time.sleep(0.1)
    who = {"id": partition, "cut": context.run_config["cut-ratio"], "process": os.getpid()}
    who["priority"] = os.getpriority(os.PRIO_PROCESS, 0)
    who["slow_imports"] = len({"fastapi", "sqlalchemy"} & sys.modules.keys())
    return Message(RecordDict({"who": ConfigRecord(who)}), reply_to=message)

@server.main()
def main(grid, context):
    grid = RetryGrid(grid)
    ids = nodes(grid, context)
    lines, reasons, priorities = [], [], set()
    for round_ in (1, 2, 3):
        replies = ask(grid, ids, round_)
        good = [reply.content["who"] for reply in replies if reply.has_content()]
        # What a worker needs not, and takes a second and a half to import.
        assert {who["slow_imports"] for who in good} == {0}
        assert all(who["cut"] == context.run_config["cut-ratio"] and who["process"] != os.getpid() for who in good)
        lines.append(f"{sorted(who['id'] for who in good)} {[r.error.code for r in replies if r.has_error()]}")
        priorities |= {who["priority"] for who in good}
        reasons.append(f"{round_}: {[r.error.reason for r in replies if r.has_error()]}")
    Path("seen").write_text("\\n".join(lines))
    Path("reasons").write_text("\\n".join(reasons))
    # A worker that gives way to everything else starves on a busy machine.
    assert priorities == {os.getpriority(os.PRIO_PROCESS, 0)}
    started = " ".join(word for own in psutil.Process().children(recursive=True) for word in own.cmdline())
    assert "raylet" in started
    assert not [name for name in ("monitor.py", "dashboard.py") if name in started]
""",
    )
    before, path = descendants(os.getpid()), os.environ.get("PYTHONPATH")
    result = run_ray(CONFIG, server_app=f"{name}:server", client_app=f"{name}:app")
    everybody = "[0, 1, 2, 3, 4, 5] []"
    seen, reasons = [(tmp_path / name).read_text() for name in ("seen", "reasons")]
    assert seen.splitlines() == ["[0, 1, 3, 4, 5] [0]", everybody, everybody], reasons
    assert result.folder == tmp_path / "out"
    assert os.environ.get("PYTHONPATH") == path
    assert_nothing_is_left(before)


def test_an_error_meant_for_the_user_reaches_the_caller(write_apps: WriteApps) -> None:
    name = write_apps(
        "refusing_apps", "@server.main()\ndef main(grid, context):\n    raise DataError('no such folder')\n"
    )
    # One worker.
    config = Config.from_flat({"num_supernodes": 1, "resources.client_num_cpus": float(CPUS), "output": "out"})
    before = descendants(os.getpid())
    with pytest.raises(DataError, match=r"^no such folder$"):
        run_ray(config, server_app=f"{name}:server", client_app=f"{name}:app")
    assert_nothing_is_left(before)


def test_too_large_clients_and_unknown_versions_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match="client_num_cpus"):
        run_ray(Config.from_flat({"resources.client_num_cpus": 4096}))
    monkeypatch.setattr(runner, "version", lambda name: "1.43.0")
    with pytest.raises(SettingError, match=r"flwr 1.43.0 is not known to work"):
        run_ray(CONFIG)


def test_ray_may_start_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its node waits 15 s for ports that it is not given, and it 30 s for its node: too little on a busy machine."""
    there: dict[str, object] = {"labels": {}}
    get = mock.Mock(side_effect=[RuntimeError("not there"), RuntimeError("not there"), there])
    start = mock.create_autospec(services.start_raylet)
    monkeypatch.setattr(services, "get_node", get)
    monkeypatch.setattr(services, "start_raylet", start)
    node_id = "a" * 56
    given: dict[str, object] = dict.fromkeys(inspect.signature(start).parameters)
    with patient_start():
        vars(services)["start_raylet"](**given | {"session_dir": str(tmp_path), "node_id": node_id})
        assert vars(services)["get_node"]("address", node_id) == there
    assert (services.start_raylet, services.get_node) == (start, get)
    ports = {name: start.call_args.kwargs[name] for name in ray_start.PORTS}
    assert len(set(ports.values()) - {None, 0}) == 4
    (file,) = tmp_path.iterdir()
    assert file.read_text() == str(ports["dashboard_agent_listen_port"])
    monkeypatch.setattr(ray_start, "START_PATIENCE", 0.0)
    get.side_effect = RuntimeError("not there")
    with patient_start(), pytest.raises(RuntimeError, match="not there"):
        vars(services)["get_node"]("address", node_id)
