"""systemd's files, as far as units of deploy/ use them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path


def read_unit(path: Path) -> dict[str, str]:
    """The settings of a unit's service, the last of each name."""
    lines = path.read_text().replace("\\\n", " ").splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"[A-Za-z]+=", line))


def read_environment(path: Path) -> dict[str, str]:
    """The variables of an EnvironmentFile, without the quotes."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {name: shlex.split(value)[0] for name, value in (line.split("=", 1) for line in lines)}


def command(unit: dict[str, str], environment: dict[str, str]) -> list[str]:
    """ExecStart in words; a ${VARIABLE} is one word, whatever it holds."""
    return [re.sub(r"\$\{(\w+)\}", lambda m: environment[m[1]], word) for word in shlex.split(unit["ExecStart"])]
