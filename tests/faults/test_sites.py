"""What can happen to sites of a deployment: one comes late, one twice, one loses its network, and one leaves."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from collafuse_flwr.privacy.ledger import Ledger
from simulations.runners.environment import prepare_environment
from simulations.runners.flwr import REPOSITORY
from simulations.runners.superlink import SuperLink, free_port, private_superlink, running_superlink, stop
from tests.cable import cable
from tests.faults.processes import rounds
from tests.integration.test_deployment import PATIENCE, SETTINGS, supernode, wait_for, write_images

ROUNDS = 16
#: Seconds without a network: a few tries of a SuperNode to come back.
CUT = 8.0


class Deployment:
    """A SuperLink, sites, and a run."""

    def __init__(self, folder: Path, superlink: SuperLink, running: ExitStack, app: Path = REPOSITORY) -> None:
        self.folder, self.superlink, self.running, self.app = folder, superlink, running, app
        self.output, self.log = folder / "run", folder / "flwr.log"
        self.flwr: subprocess.Popen[bytes] | None = None

    def join(self, name: str, client: int, address: str = "") -> subprocess.Popen[bytes]:
        """Let a site come, with images and state of its own."""
        home, superlink = self.folder / name, self.superlink
        write_images(home / "images", client)
        if address:
            superlink = dataclasses.replace(superlink, address=address)
        return self.running.enter_context(supernode(superlink, home, client))

    def start(self, **settings: Any) -> None:
        """Start a run."""
        given = SETTINGS | {name.replace("__", ".").replace("_", "-"): value for name, value in settings.items()}
        given |= {"output": str(self.output)}
        text = " ".join(f"{name}={json.dumps(value)}" for name, value in given.items())
        command = self.superlink.command("run", str(self.app), "--stream", "--run-config", text)
        with self.log.open("wb") as log:
            self.flwr = subprocess.Popen(command, env=self.superlink.environment, stdout=log, stderr=log)
        self.running.callback(self.flwr.kill)

    def end(self) -> int:
        """Wait for the end of the run; its exit status."""
        assert self.flwr is not None
        return self.flwr.wait(PATIENCE)

    def wait_for_row(self, what: str, is_it: Callable[[dict[str, Any]], bool], after: int = 0) -> int:
        """Wait for a round after another one of which something is true; its number."""

        def numbers() -> list[int]:
            return [row["round"] for row in rounds(self.output) if row["round"] > after and is_it(row)]

        def over() -> bool:
            assert self.flwr is not None
            return self.flwr.poll() is not None

        wait_for(lambda: bool(numbers()) or over(), what)
        assert numbers(), (what, self.log.read_text())
        return numbers()[0]


@pytest.fixture
def deployment(tmp_path: Path) -> Any:
    prepare_environment()
    with private_superlink(simulation=False) as superlink, ExitStack() as running:
        yield Deployment(tmp_path, superlink, running)


def test_sites_come_late_and_twice_lose_their_network_and_leave(deployment: Deployment) -> None:
    with cable(deployment.superlink.address) as wire:
        deployment.join("0", 0, wire.address)
        leaving = deployment.join("1", 1)
        deployment.start(num_supernodes=3, num_rounds=ROUNDS, federation__min_available_nodes=2, quiet=False)
        first = deployment.wait_for_row("the first round", lambda row: True)
        twin = deployment.join("twin", 1)
        deployment.join("2", 2)
        late = deployment.wait_for_row("the late one", lambda row: "2" in row["clients"])
        wait_for(lambda: "two nodes say that they are client 1" in deployment.log.read_text(), "the twin's refusal")
        stop(twin)
        wire.cut()
        time.sleep(CUT)
        wire.mend()
        cut = rounds(deployment.output)[-1]["round"]
        back = deployment.wait_for_row("the one that was cut off", lambda row: "0" in row["clients"], cut)
        stop(leaving)
        gone = deployment.wait_for_row("its absence", lambda row: "1" in row["failed"], back)
        wait_for(lambda: deployment.flwr is not None and deployment.flwr.poll() is not None, "the end")
    rows = rounds(deployment.output)
    assert [row["round"] for row in rows] == list(range(1, ROUNDS + 1)), deployment.log.read_text()
    assert first < late < back < gone < ROUNDS
    assert all("2" not in row["clients"] for row in rows[: late - 1])
    # Each upload was accepted once, whatever was sent again.
    assert sorted(client for row in rows for client in row["uploads"]) == ["0", "1", "2"]
    assert all(row["failed"].keys() <= {"0"} for row in rows[late : back - 1])
    assert all(row["failed"]["1"] == "it is not there" for row in rows[gone:])
    assert all(row["clients"].keys() == {"0", "2"} for row in rows[gone:])
    summary = json.loads((deployment.output / "summary.json").read_text())
    assert [client["client"] for client in summary["clients"]] == [0, 1, 2]


def test_a_superlink_that_restarts_in_a_run_ends_it_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    """Its database keeps who the sites are: they come back by themselves, and what they sent is not sent again."""
    prepare_environment()
    port, database = free_port(), ("--database", str(tmp_path / "superlink.db"))
    settings = {"num_rounds": 4, "quiet": False}
    (tmp_path / "home").mkdir()
    with ExitStack() as running:
        with running_superlink(tmp_path / "home", port, *database) as superlink:
            deployment = Deployment(tmp_path, superlink, running)
            deployment.join("0", 0)
            deployment.join("1", 1)
            deployment.start(**settings)
            first = deployment.wait_for_row("the first round", lambda row: True)
        ended = deployment.end()
        assert ended == 1, deployment.log.read_text()
        assert "Connection to the SuperLink is unavailable" in deployment.log.read_text()
        before = rounds(deployment.output)
        assert first <= len(before) < settings["num_rounds"]
        with running_superlink(tmp_path / "home", port, *database):
            deployment.start(**settings, resume=True)
            assert deployment.end() == 0, deployment.log.read_text()
    rows = rounds(deployment.output)
    assert [row["round"] for row in rows] == list(range(1, settings["num_rounds"] + 1))
    assert rows[: len(before)] == before
    assert all(row["clients"].keys() == {"0", "1"} and not row["failed"] for row in rows)
    assert sorted(client for row in rows for client in row["uploads"]) == ["0", "1"]
    for site in ("0", "1"):
        assert Ledger(tmp_path / site / "state" / "ledger.jsonl").exposure().releases == 1
