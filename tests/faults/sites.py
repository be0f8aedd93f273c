"""The machines of docs/deployment.md on this one: each has its variables, its folders and its services."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from simulations.runners.flwr import REPOSITORY
from tests.pages import variables

PAGE = (REPOSITORY / "docs" / "deployment.md").read_text()
#: Programs of the page that this machine may lack, or that would change it.
STAND_INS = ("systemctl", "useradd", "nginx")


@dataclass(frozen=True)
class Machine:
    """One machine; `values` are those of the page's variables."""

    folder: Path
    values: dict[str, str]

    @property
    def services(self) -> Path:
        return self.folder / "services"

    def log(self, name: str) -> str:
        """What a service has said so far."""
        path = self.services / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def prepare(self) -> None:
        """Make the folders that a machine has before."""
        for name in ("home", "services", "bin", "nginx"):
            (self.folder / name).mkdir(parents=True)
        for program in STAND_INS:
            path = self.folder / "bin" / program
            path.write_text(
                f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m tests.faults.systemctl {program} "$@"\n'
            )
            path.chmod(0o755)

    def preamble(self) -> str:
        """The page's variables, with this machine's values.

        Raises:
            AssertionError: the page sets another variable, or none of a name.
        """
        lines, names = variables(PAGE), set[str]()

        def replaced(match: re.Match[str]) -> str:
            names.add(match[1])
            return f"{match[1]}={shlex.quote(self.values[match[1]])}"

        text = re.sub(r"^([A-Z_]+)=.*$", replaced, lines, flags=re.MULTILINE)
        assert names == self.values.keys(), names ^ self.values.keys()
        return text.replace("FLWR_HOME=$HOME/.flwr", f"FLWR_HOME={self.folder}/home/.flwr")

    def run(self, commands: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run commands of the page in a shell that stops at the first error."""
        environment = {
            **os.environ,
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "REAL_PATH": os.environ["PATH"],
            "UNITS": self.values["UNITS"],
            "SERVICES": str(self.services),
            "NGINX_CONF": self.values["NGINX"],
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "COLUMNS": "160",
        }
        # The stand-ins come first again, after the page has put $VENV in front.
        prelude = "set -euo pipefail\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n"
        script = f'{prelude}{self.preamble()}export PATH="{self.folder}/bin:$PATH"\n{commands}'
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder / "home",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{commands}\n{done.stdout}"
        return done
