"""What clients of a deployment can do wrong: one raises, one is late, one hangs, and one says everything twice."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.runners.environment import prepare_environment
from simulations.runners.superlink import private_superlink
from tests.faults.echo import echo
from tests.faults.processes import rounds
from tests.faults.test_sites import Deployment
from tests.integration.test_deployment import CLASSES, HELD_OUT, PER_CLASS, wait_for
from tests.projects import write_project

ROUNDS, TIMEOUT = 3, 100
#: Images of each client that are trained on.
IMAGES = CLASSES * PER_CLASS - HELD_OUT
#: What a client does, by the file `fault` beside its images, and in which round.
FAULTS = {1: "raise 1", 2: "late 1", 3: f"hang {ROUNDS}"}
CLIENT_APP = f"""
import time
from pathlib import Path

from flwr.clientapp import ClientApp

from collafuse_flwr.client_app import app as sound

app = ClientApp()


def call(message, context):
    path = Path(context.node_config["data-path"]).parent / "fault"
    kind, round_ = path.read_text().split() if path.exists() else ("none", "0")
    if message.metadata.group_id != round_:
        return sound(message, context)
    if kind == "raise":
        raise RuntimeError("a mistake of its own")
    if kind == "hang":
        time.sleep(1e6)
    reply = sound(message, context)
    time.sleep({TIMEOUT + 15})
    return reply


app.train()(call)
app.evaluate()(sound)
app.query("client_info")(sound)
"""
SERVER_APP = """
from flwr.serverapp import ServerApp

from collafuse_flwr.server_app import app as sound

app = ServerApp()


@app.main()
def main(grid, context):
    sound(grid, context)
"""


@pytest.fixture
def app_dir(tmp_path: Path) -> Path:
    """An app whose server is ours, and whose clients can be told to fail."""
    folder = tmp_path / "app"
    (folder / "faulty").mkdir(parents=True)
    for name, code in {"__init__": "", "client_app": CLIENT_APP, "server_app": SERVER_APP}.items():
        (folder / "faulty" / f"{name}.py").write_text(code)
    write_project(folder, "faulty", "faulty.server_app:app", "faulty.client_app:app")
    return folder


def test_each_costs_only_its_round_and_nothing_is_counted_twice_or_forgotten(
    tmp_path: Path, app_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_environment()
    # A SuperNode that is online says who it is.
    monkeypatch.setenv("FLWR_LOG_LEVEL", "INFO")
    with (
        private_superlink(simulation=False) as superlink,
        echo(superlink.address) as network,
        ExitStack() as running,
    ):
        deployment = Deployment(tmp_path, superlink, running, app_dir)
        for client in range(4):
            deployment.join(str(client), client, network.address if client == 0 else "")
        for client, fault in FAULTS.items():
            (tmp_path / str(client) / "fault").write_text(fault)
        logs = [tmp_path / str(client) / "supernode.log" for client in range(4)]
        # The time limit is for introductions too.
        wait_for(lambda: all("SuperNode ID" in log.read_text() for log in logs), "the clients")
        deployment.start(num_supernodes=4, num_rounds=ROUNDS, federation__round_timeout=TIMEOUT, quiet=False)
        deployment.end()
    rows = rounds(deployment.output)
    assert [row["round"] for row in rows] == [1, 2, 3], deployment.log.read_text()
    # An introduction, a reply of each round, and samples.
    assert len(network.replies) == ROUNDS + 2
    assert network.repeated > 2 * len(network.replies)

    late = f"no reply within {TIMEOUT} seconds"
    first, *others = rows
    assert first["failed"].keys() == {"1", "2"}
    assert "a mistake of its own" in first["failed"]["1"]
    assert first["failed"]["2"] == late
    assert [row["failed"] for row in others] == [{}, {"3": late}]
    assert not any(row["rejected"] for row in rows)
    # The late reply came in the second round, and is not taken for that round's.
    assert [sorted(row["clients"]) for row in rows] == [["0", "3"], [*"0123"], [*"012"]]
    assert [sorted(row["uploads"]) for row in rows] == [["0", "3"], ["1", "2"], []]
    assert [row["server"]["pool"] for row in rows] == [2 * IMAGES, 4 * IMAGES, 4 * IMAGES]
    # What lies in the pool are as many images of 8 x 8 in int8, each with a scale of its own.
    assert (RunLayout(deployment.output).pool / "x_k.bin").stat().st_size == 4 * IMAGES * (64 + 4)
    for client in range(4):
        assert Ledger(tmp_path / str(client) / "state" / "ledger.jsonl").exposure().releases == 1
    assert json.loads((deployment.output / "summary.json").read_text())["clients"]
