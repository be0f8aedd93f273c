"""Every command of docs/deployment.md, in its order: a server, three clients and a reviewer."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import collafuse_flwr as cf
from simulations.runners.flwr import REPOSITORY
from simulations.runners.processes import descendants, end
from simulations.runners.superlink import free_port
from tests.faults.sites import PAGE, Machine
from tests.integration.test_deployment import pictures, write_images
from tests.pages import Block, shell_blocks

CLIENTS = 3
SETTINGS = (
    f"num-supernodes={CLIENTS} num-rounds=2 dataset='imagefolder' image-size=8 model='nano' upload.share-labels=false "
    "diffusion.timesteps=20 client.init-from='random' train.local-epochs=1.0 server.batch-size=16 "
    "evaluation.num-samples=12 sampling.server-steps=3 sampling.client-steps=2"
)
VERSION = "0.1.0"


def machine(folder: Path, name: str, number: int = 0, **values: str) -> Machine:
    """A machine with folders and ports of its own, but for what `values` has."""
    root = folder / name
    own = {
        "SOURCE": str(REPOSITORY),
        "WHEEL": str(REPOSITORY / "dist" / f"collafuse_flwr-{VERSION}-py3-none-any.whl"),
        "PYTHON": os.path.realpath(sys.executable),
        "VENV": str(root / "venv"),
        "ETC": str(root / "etc"),
        "CA": str(root / "ca"),
        "STATE": str(root / "var"),
        "UNITS": str(root / "units"),
        "RUN_AS": getpass.getuser(),
        "HOST": "localhost",
        "PORT": str(free_port()),
        "FLEET_PORT": str(free_port()),
        "NODE_PORT": str(free_port()),
        "BACKUP": str(root / "backup"),
        "NGINX": str(root / "nginx"),
        "NUMBER": str(number),
        "DATA": str(root / "images"),
        "LEAVING": f"site-{CLIENTS - 1}",
        "SETTINGS": SETTINGS,
    }
    made = Machine(root, own | values)
    made.prepare()
    return made


class Sites:
    """All machines, and what their people hand to one another."""

    def __init__(self, folder: Path) -> None:
        port = str(free_port())
        # Without nginx clients dial the SuperLink itself.
        fleet = str(free_port()) if shutil.which("nginx") else port
        self.server = machine(folder, "server", PORT=port, FLEET_PORT=fleet)
        # One environment for all: the folders of the machines differ, what is installed does not.
        venv = self.server.values["VENV"]
        self.clients = [machine(folder, f"site-{n}", n, FLEET_PORT=fleet, VENV=venv) for n in range(CLIENTS)]
        self.reviewer = machine(folder, "reviewer", VENV=venv)
        self.trial = machine(folder, "trial", VENV=venv)
        for number, client in enumerate([*self.clients, self.trial]):
            write_images(Path(client.values["DATA"]), number)
        self.sent = set[Path]()

    def of(self, block: Block) -> list[Machine]:
        """The machines that a block is for."""
        return {
            "environment": [self.server],
            "all": [self.server, *self.clients],
            "server": [self.server],
            "client": self.clients,
            "upgrade": self.clients[:1],
            "leaving": self.clients[-1:],
            "reviewer": [self.reviewer],
            "trial": [self.trial],
        }[block.info.removeprefix("sh ")]

    def hand_over(self) -> None:
        """Send what has been made since: certificate, public keys, app and signatures."""
        etc = Path(self.server.values["ETC"])
        for number, client in enumerate(self.clients):
            own = Path(client.values["ETC"])
            self._send(etc / "ca.crt", own / "ca.crt")
            self._send(self.reviewer.folder / "home" / "trusted.yaml", own / "trusted.yaml")
            self._send(own / "node.key.pub", etc / "nodes" / f"site-{number}.pub")
        for file in (self.reviewer.folder / "home").glob("*.fab*"):
            self._send(file, etc / "apps" / file.name)

    def _send(self, source: Path, target: Path) -> None:
        if source.exists() and target.parent.exists() and target not in self.sent:
            shutil.copy(source, target)
            self.sent.add(target)

    def stop(self) -> None:
        """End whatever still runs."""
        for own in (self.server, self.reviewer, self.trial, *self.clients):
            for path in own.services.glob("*.pid"):
                pid = int(path.read_text())
                end({pid} | descendants(pid), 0)


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    made = Sites(tmp_path)
    yield made
    made.stop()


def answer(sites: Sites, port: str, path: str) -> int:
    """What the server answers to somebody without a key, by its status."""
    context = ssl.create_default_context(cafile=f"{sites.server.values['ETC']}/ca.crt")
    request = urllib.request.Request(f"https://localhost:{port}{path}", b"", {"Content-Type": "application/protobuf"})
    try:
        with urllib.request.urlopen(request, context=context) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def check_ports(sites: Sites) -> None:
    """Clients reach what a key signs, and nothing else, where nginx stands before the SuperLink."""
    fleet, own = sites.server.values["FLEET_PORT"], sites.server.values["PORT"]
    assert answer(sites, fleet, "/v1/fleet/pull-messages") == 401
    # What the page warns of: the SuperLink's own port demands nothing.
    assert answer(sites, own, "/v1/control/list-runs") == 200
    if fleet != own:
        for path in ("/v1/control/list-runs", "/v1/runtime/acquire-task", "/v1/fleet/../control/list-runs", "/docs"):
            assert answer(sites, fleet, path) == 403


def check_run(sites: Sites) -> None:
    """All clients took part, each by its own policy, and what the server has holds no secret of theirs."""
    run = Path(sites.server.values["STATE"]) / "runs" / "first"
    summary = json.loads((run / "summary.json").read_text())
    assert [client["client"] for client in summary["clients"]] == list(range(CLIENTS))
    # The policy of the page lets out numbers about 100 images or more, and these clients have fewer.
    assert all(client["releases"] == 1 and client["held_out_loss"] is None for client in summary["clients"])
    for client in sites.clients:
        state, backup = Path(client.values["STATE"], "state"), Path(client.values["BACKUP"])
        assert state.stat().st_mode & 0o777 == 0o700
        assert (state / "secret").stat().st_mode & 0o777 == 0o600
        assert json.loads((backup / "disclosed.json").read_text())["whole"]["images"] > 0
    (listed,) = runs(sites)
    assert listed["status"] == "finished:completed"


def runs(sites: Sites) -> list[dict[str, str]]:
    """What `flwr list` says of all runs, the newest first."""
    text = sites.server.run("flwr list hospitals --format json").stdout
    rows: list[dict[str, str]] = json.loads(text[text.index("{") :])["runs"]
    return rows


def check_mistakes(sites: Sites) -> None:
    """A symptom of the page's table is what an administrator sees."""
    client, output = sites.clients[0], Path(sites.server.values["STATE"]) / "runs" / "unsigned"
    client.run("ssh-keygen -q -t ecdsa -N '' -f other.key")
    client.run("openssl req -x509 -newkey rsa:2048 -noenc -subj /CN=other -keyout other.pem -out other.crt")
    start = f'flower-supernode --superlink "$HOST:$FLEET_PORT" --port {free_port()}'
    for options, symptom in (
        ('--root-certificates "$ETC/ca.crt"', "SuperNode authentication is enabled"),
        ('--root-certificates "$ETC/ca.crt" --auth-supernode-private-key other.key', "Failed to activate SuperNode"),
        ("--root-certificates other.crt", "CERTIFICATE_VERIFY_FAILED"),
    ):
        assert f"`{symptom}" in PAGE, symptom
        done = client.run(f"timeout 120 {start} {options}", check=False)
        assert symptom in done.stdout, done.stdout
        assert done.returncode != 0
    # An app that nobody signed.
    symptom = "App verification is not supported"
    assert f"`{symptom}`" in PAGE
    sites.server.run(f'flwr run "$SOURCE" hospitals --stream --run-config "$SETTINGS output=\'{output}\'"')
    assert runs(sites)[0]["status"] == "finished:failed"
    assert all(symptom in own.log("collafuse-supernode") for own in sites.clients)
    assert not (output / "metrics.jsonl").exists()


def check_generation(sites: Sites) -> None:
    """What each client has on its own disk is, bit for bit, what one process makes of the same networks."""
    whole = shutil.copytree(Path(sites.server.values["STATE"], "runs", "first"), sites.server.folder / "whole")
    for number, client in enumerate(sites.clients):
        state = Path(client.values["STATE"], "state")
        (own,), (made,) = (state / "runs").iterdir(), (state / "generated").iterdir()
        shutil.copytree(own, whole / "clients" / str(number))
        output = str(sites.server.folder / f"alone-{number}")
        alone = pictures(cf.generate(whole, client=number, num_images=16, seed=1, output=output))
        assert len(alone) == 17, "16 images and their grid"
        assert pictures(made / "0001") == alone


def check_removal(sites: Sites) -> None:
    """Nothing of the site is left on its machine but its ledger, and the others are still there."""
    left, stayed = sites.clients[-1], sites.clients[0]
    assert not Path(left.values["STATE"]).exists()
    assert Path(left.values["BACKUP"], "ledger.jsonl").stat().st_size > 0
    assert "SuperNode ID" in left.log("collafuse-supernode")
    assert Path(stayed.values["STATE"], "state", "secret").exists()
    text = sites.server.run("flwr supernode list hospitals --format json").stdout
    nodes = json.loads(text[text.index("{") :])["nodes"]
    assert sum(node["status"] != "unregistered" for node in nodes) == CLIENTS - 1


def check_trial(sites: Sites) -> None:
    assert (Path(sites.trial.values["STATE"]) / "runs" / "trial" / "summary.json").exists()


#: What must be true after a section's commands.
CHECKS = {
    "Client": [check_ports],
    "Run": [check_run, check_mistakes],
    "Generating together": [check_generation],
    "Removal of a site": [check_removal],
    "A trial without certificates": [check_trial],
}


def test_every_command_of_the_page(sites: Sites, record_property: Callable[[str, object], None]) -> None:
    began = time.monotonic()
    for section in PAGE.split("\n## ")[1:]:
        title = section.partition("\n")[0]
        for block in shell_blocks(section):
            for own in sites.of(block):
                own.run(block.text)
            sites.hand_over()
        for check in CHECKS.get(title, []):
            check(sites)
        record_property(title, f"{time.monotonic() - began:.0f} s")
