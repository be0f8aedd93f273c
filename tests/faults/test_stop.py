"""A SuperLink that is to end while somebody's request is not whole."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from simulations.runners.flwr import REPOSITORY
from simulations.runners.superlink import free_port
from simulations.superlink import PATIENCE as WAITS
from tests.faults.processes import PATIENCE

#: More is announced than comes, so that the server waits for the rest.
REQUEST = (
    b"POST /v1/fleet/activate-node HTTP/1.1\r\nHost: x\r\nContent-Type: application/protobuf\r\n"
    b"Content-Length: 1000\r\n\r\n"
)


def connected(port: int, superlink: subprocess.Popen[bytes]) -> socket.socket:
    """A connection to a SuperLink, once it listens."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert superlink.poll() is None
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port))
        time.sleep(0.1)
    raise AssertionError("it does not listen")


def test_a_request_that_is_not_whole_holds_it_up_for_a_while_only(tmp_path: Path) -> None:
    port = free_port()
    options = ["--apps", str(tmp_path), "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HOME": str(tmp_path), "FLWR_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "simulations.superlink", *options]
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as superlink, connected(port, superlink) as request:
        request.sendall(REQUEST)
        time.sleep(1)
        superlink.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert superlink.wait(PATIENCE) == 128 + signal.SIGTERM
        assert time.monotonic() - began >= WAITS, "it was not held up at all: the request does not show it"
