"""Flower's SuperNode, whose messages take no time to start: `python -m simulations.supernode OPTIONS`.

    python -m simulations.supernode --superlink HOST:9092 --root-certificates ca.crt --node-config '...'

The options are those of `flower-supernode`, which this starts. For every message that starts a `flwr-clientapp`, a
process that would import flwr, torch and diffusers each time; here it is forked from one that has. The app itself is
imported after the fork, from the bundle that Flower has delivered and verified.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from simulations.runners.environment import prepare_environment
from simulations.runners.fork_server import ForkServer, path_with
from simulations.runners.processes import exit_status, pass_signals_to
from simulations.runners.superlink import script, with_scripts

#: Packages of the app, which this file belongs to as well.
OURS = ("collafuse_flwr", "strategies", "simulations")


def preload() -> None:
    """Import what is slow and belongs to no app."""
    import diffusers.models.unets.unet_2d  # noqa: PLC0415, F401
    import flwr.supernode.cli.flwr_clientapp  # noqa: PLC0415
    import flwr.supernode.runtime.run_clientapp  # noqa: PLC0415, F401
    import torch._dynamo  # noqa: PLC0415, F401 - Adam's first step imports it
    import torchvision  # noqa: PLC0415, F401


def clientapp() -> None:
    """`flwr-clientapp`, to which no app is imported yet: what Flower has verified must run, not what lies here."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp  # noqa: PLC0415 - it is there already

    flwr_clientapp()


def main(arguments: list[str]) -> int:
    """Start a SuperNode and serve it; the exit status is the SuperNode's."""
    prepare_environment()
    command = [script("flower-supernode"), *arguments]
    if not hasattr(os, "fork"):
        return subprocess.call(command)
    if not {"-h", "--help", "-V", "--version"} & set(arguments):
        preload()
        if status := _check(arguments):
            return status
    with tempfile.TemporaryDirectory(prefix="collafuse-") as folder:
        server = ForkServer(Path(folder), {"flwr-clientapp": clientapp})
        supernode = subprocess.Popen(command, env=path_with(server.scripts, with_scripts(os.environ)))
        pass_signals_to(supernode)
        try:
            server.run(until=lambda: supernode.poll() is not None)
        finally:
            server.close()
            if supernode.poll() is None:
                supernode.terminate()
    return exit_status(supernode)


def _check(arguments: list[str]) -> int:
    """The exit status of `simulations.check_node`, in a fork: this process imports none of our packages."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        from simulations import check_node  # noqa: PLC0415

        sys.argv = ["check_node", *arguments]
        status = check_node.main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
