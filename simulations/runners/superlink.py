"""A SuperLink of one's own: `flwr run` would otherwise use any that listens, even another checkout's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from collafuse_flwr.core.errors import RunFailed
from simulations.runners.fork_server import path_with
from simulations.runners.processes import descendants, end

#: Seconds for the SuperLink to answer, for it to end, and for what it started to follow.
START_PATIENCE, END_PATIENCE, FOLLOW_PATIENCE = 300.0, 15.0, 4.0


@dataclass(frozen=True)
class FlowerCli:
    """Flower's command line, in an environment that says where its configuration is."""

    environment: dict[str, str]

    def command(self, *arguments: str) -> list[str]:
        """A `flwr` command of this Python's environment."""
        return [script("flwr"), *arguments]

    def flwr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `flwr` command to its end."""
        return subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, check=False
        )


@dataclass(frozen=True)
class SuperLink(FlowerCli):
    """A SuperLink that runs, whose environment lets `flwr` find it and no other."""

    home: Path
    address: str


@contextmanager
def private_superlink(*, simulation: bool = True) -> Iterator[SuperLink]:
    """Start a SuperLink with its own home and port, and stop it with all that it started.

    It simulates the clients itself, or with `simulation` = False waits for SuperNodes.

    Raises:
        RunFailed: it does not start.
    """
    with (
        tempfile.TemporaryDirectory(prefix="collafuse-", ignore_cleanup_errors=True) as folder,
        running_superlink(Path(folder), free_port(), *["--simulation"] * simulation) as superlink,
    ):
        yield superlink


@contextmanager
def running_superlink(home: Path, port: int, *options: str) -> Iterator[SuperLink]:
    """Start a SuperLink with a home and a port, and stop it with all that it started.

    Raises:
        RunFailed: it does not start.
    """
    environment = with_scripts(os.environ) | {"FLWR_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    connection = f'[superlink]\ndefault = "own"\n\n[superlink.own]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(connection)
    own = ["--insecure", "--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "superlink.log").open("a") as log:
        process = subprocess.Popen(
            [script("flower-superlink"), *own, *options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C is for this process, which then stops the SuperLink in good order.
            start_new_session=True,
        )
        try:
            _wait_until_healthy(process, port, home / "superlink.log")
            yield SuperLink(environment, home, f"127.0.0.1:{port}")
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a SuperLink or SuperNode; its children, in sessions of their own, watch it and follow, or are killed."""
    below = descendants(process.pid)
    process.terminate()
    try:
        process.wait(END_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    end(below, FOLLOW_PATIENCE)


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    # Never through a proxy: the SuperLink is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with opener.open(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    last = (log.read_text(errors="replace").strip().splitlines() or ["it left no message"])[-1]
    raise RunFailed(f"flower-superlink did not start: {last}")


def script(name: str) -> str:
    """A console script beside this Python."""
    return str(Path(sys.executable).with_name(name))


def with_scripts(env: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Flower's programs find those that they start: the console scripts beside this Python."""
    return path_with(Path(sys.executable).parent, env)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
