"""Commands that are forks of one process, called as any other command is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SERVER = """
import os, sys, tempfile, time
from pathlib import Path
from simulations.runners.fork_server import ForkServer

def speak():
    print(" ".join(sys.argv), os.getcwd(), os.environ["COLOUR"], flush=True)
    print("a mistake", file=sys.stderr)
    print(sys.stdin.read())
    sys.exit(int(sys.argv[1]))

def sleep():
    print(os.getpid(), flush=True)
    time.sleep(100)

def fail():
    raise RuntimeError("its own mistake")

def die():
    os.kill(os.getpid(), 9)

folder, imported = Path(sys.argv[1]), time.monotonic()
os.environ["COLOUR"] = "of the server"
server = ForkServer(folder, {"speak": speak, "sleep": sleep, "fail": fail, "die": die})
print("ready", flush=True)
server.run(until=lambda: (folder / "stop").exists())
server.close()
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Iterator[Path]:
    """The folder of the commands of a server that runs, in a process of its own."""
    folder = tmp_path / "server"
    folder.mkdir()
    (tmp_path / "server.py").write_text(textwrap.dedent(SERVER))
    command = [sys.executable, str(tmp_path / "server.py"), str(folder)]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield folder / "bin"
        (folder / "stop").touch()
        server.send_signal(signal.SIGCHLD)
        assert server.wait(10) == 0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_command_has_its_callers_arguments_folder_environment_and_streams(scripts: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [scripts / "speak", "3", "two words"],
        cwd=tmp_path,
        env={"COLOUR": "of the caller"},
        input="said",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stdout == f"speak 3 two words {tmp_path} of the caller\nsaid\n"
    assert done.stderr == "a mistake\n"


@pytest.mark.parametrize(("name", "status", "says"), [("fail", 1, "its own mistake"), ("die", 128 + 9, "")])
def test_a_command_that_fails_says_so_and_harms_no_other(scripts: Path, name: str, status: int, says: str) -> None:
    failed = subprocess.run([scripts / name], capture_output=True, text=True, check=False)
    assert failed.returncode == status
    assert says in failed.stderr
    assert subprocess.run([scripts / "speak", "0"], env={"COLOUR": ""}, input=b"", check=False).returncode == 0


def test_a_command_whose_caller_is_killed_ends(scripts: Path) -> None:
    with subprocess.Popen([scripts / "sleep"], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        pid = int(caller.stdout.readline())
        assert not gone(pid)
        caller.kill()
    wait_for(lambda: gone(pid))


def test_many_commands_run_at_once(scripts: Path) -> None:
    calls = [
        subprocess.Popen([scripts / "speak", str(i)], env={"COLOUR": ""}, stdin=subprocess.PIPE, text=True)
        for i in range(8)
    ]
    # None ends before its input does.
    assert [call.poll() for call in calls] == [None] * 8
    for call in calls:
        call.communicate("")
    assert [call.returncode for call in calls] == list(range(8))


def test_nobody_else_may_call(scripts: Path) -> None:
    assert scripts.parent.stat().st_mode & 0o777 == 0o700
