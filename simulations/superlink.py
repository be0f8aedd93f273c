"""Flower's SuperLink, which runs signed apps of a folder: `python -m simulations.superlink --apps FOLDER OPTIONS`.

The other options are those of `flower-superlink`, which this starts. `flwr run @publisher/name==version` then takes
the app and its signatures (`python -m simulations.sign`) from FOLDER, where Flower's own takes them from Flower Hub.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from simulations.app_folder import AppFolder, served
from simulations.runners.environment import prepare_environment
from simulations.runners.processes import exit_status, pass_signals_to
from simulations.runners.superlink import script, with_scripts
from simulations.usage import show_usage

#: Seconds in which a SuperLink is to end. It waits for its connections, and closes those that are open; one that a
#: SuperNode makes in that moment stays, and the SuperNode would use it for as long as it polls.
PATIENCE = 20.0


def main(arguments: list[str]) -> int:
    """Start a SuperLink and answer its questions for apps; the exit status is the SuperLink's."""
    parser = argparse.ArgumentParser("python -m simulations.superlink", add_help=False, allow_abbrev=False)
    parser.add_argument("--apps", type=Path)
    own, others = parser.parse_known_args(arguments)
    if {"-h", "--help"} & set(others):
        show_usage(f"{__doc__}\n  --apps FOLDER  the folder of apps\n")
    elif own.apps is None or not own.apps.is_dir():
        print(f"error: --apps = {own.apps} is not allowed: the folder of signed apps", file=sys.stderr)
        return 2
    prepare_environment()
    # Flower's telemetry and its look for updates would ask the folder as well.
    with served(AppFolder(own.apps or Path())) as address:
        environment = with_scripts(os.environ) | _direct(os.environ) | {"FLWR_SUPERGRID_API_URL": address}
        superlink = subprocess.Popen([script("flower-superlink"), *others], env=environment)
        pass_signals_to(superlink, PATIENCE)
        return exit_status(superlink)


def _direct(env: Mapping[str, str]) -> dict[str, str]:
    """Variables by which this machine is reached without its proxy."""
    return {name: ",".join(filter(None, [env.get(name), "127.0.0.1"])) for name in ("NO_PROXY", "no_proxy")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
