"""Python's and Flower's commands, forked from a process that has imported what is slow: for tests that start many.

`python -m tests.warm FOLDER` serves them, as scripts in FOLDER/bin, from when FOLDER/ready is there until it gets
SIGTERM or its parent is gone. Each kind of command is also started as usual by some test: those of a simulation by
test_same_run, those of a deployment by test_deployment, `simulations.run` by test_run and `simulations.sweep` by
test_sweep.
"""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from simulations.runners.environment import prepare_environment
from simulations.runners.fork_server import ForkServer
from simulations.supernode import OURS, preload

#: What starts Ray.
RAY = "flwr-simulation"
COMMANDS = (
    "flwr",
    "flower-superlink",
    "flower-supernode",
    "flower-superexec",
    "flwr-serverapp",
    "flwr-clientapp",
    RAY,
)
#: Seconds between two looks at the parent.
PERIOD = 2.0


def python(interpreter: str) -> None:
    """`python -m MODULE ARGUMENTS`; anything else is left to an interpreter of its own."""
    if sys.argv[1] != "-m":
        os.execv(interpreter, [interpreter, *sys.argv[1:]])
    module, sys.argv[1:] = sys.argv[2], sys.argv[3:]
    sys.path.insert(0, os.getcwd())
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def console_script(point: EntryPoint) -> None:
    """A script as pip installs it."""
    if point.name != RAY:
        sys.exit(point.load()())
    # The machine may be busy with other tests. A module of ours, which is not to be there before the fork.
    from simulations.runners.ray_start import patient_start  # noqa: PLC0415

    with patient_start():
        sys.exit(point.load()())


def command(act: Callable[[], None], executable: str) -> None:
    """Act as a process that has imported nothing of ours, and whose children are forked as well."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    sys.executable = executable
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    act()


def main(folder: Path) -> None:
    prepare_environment()
    own, forked, parent = sys.executable, str(folder / "bin" / "python"), os.getppid()
    points = [point for point in entry_points(group="console_scripts") if point.name in COMMANDS]
    scripts = {
        # Ray starts its workers by the interpreter of this process, and counts on their ids.
        point.name: partial(command, partial(console_script, point), own if point.name == RAY else forked)
        for point in points
    }
    server = ForkServer(folder, scripts | {"python": partial(command, partial(python, own), forked)})
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, PERIOD, PERIOD)
    preload()
    for point in points:
        point.load()
    for module in ("collafuse_flwr.server_app", "collafuse_flwr.client_app"):
        importlib.import_module(module)
    (folder / "ready").touch()
    server.run(until=lambda: bool(stopped) or os.getppid() != parent)
    server.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
