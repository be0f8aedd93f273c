from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from simulations.runners.flwr import REPOSITORY
from simulations.runners.processes import alive, descendants, end

#: A child in a session of its own, which ignores SIGTERM as a stuck daemon does.
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', {!r}], start_new_session=True)"
CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def test_descendants_of_a_process_are_listed_and_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT.format(CHILD)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        below = descendants(parent.pid)
        assert len(below) == 1
        assert parent.pid in descendants(os.getpid())
        assert alive(below) == below
        parent.terminate()
        parent.wait(10)
        end(below, patience=0.0)
        deadline = time.monotonic() + 10
        while alive(below) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(below)


WAITING = """
import atexit, sys, threading
from simulations.runners.processes import leave
atexit.register(print, "cleaned up")
if sys.argv[1] == "thread":
    threading.Thread(target=threading.Event().wait).start()
sys.stdout.write("said, ")
leave(int(sys.argv[2]))
"""


@pytest.mark.parametrize(("left", "status"), [("thread", 129), ("thread", 1), ("nothing", 130), ("nothing", 0)])
def test_a_process_ends_with_its_status_whatever_waits_in_it(left: str, status: int) -> None:
    command = [sys.executable, "-c", WAITING, left, str(status)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "said, cleaned up\n", "")


#: It stands for a server, which is the child, ignores SIGTERM, and ends by SIGINT with 7.
STANDING = """
import subprocess, sys
from simulations.runners.processes import exit_status, pass_signals_to
server = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
pass_signals_to(server, 0.2)
server.stdout.readline()
print("up", flush=True)
sys.exit(exit_status(server))
"""
SERVER = "import signal, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit(7));"


def test_a_server_that_waits_for_its_connections_is_interrupted() -> None:
    command = [sys.executable, "-c", STANDING, SERVER + CHILD]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.readline()
        program.terminate()
        assert program.wait(30) == 7
