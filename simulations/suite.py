"""A suite of sweeps: `python -m simulations.suite digits output=FOLDER [SETTING=VALUE ...]`.

Runs every sweep that conf/suite/NAME.yaml lists into one folder, and makes the report of them all. Settings that are
given replace the suite's. The same command again continues where it was stopped; failed runs are repeated.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from omegaconf import OmegaConf

from simulations.cli import CONF, USER_ERROR
from simulations.usage import show_usage

SUITES = CONF / "suite"


def sweeps(name: str, overrides: list[str]) -> list[list[str]]:
    """The arguments of each sweep of a suite; what is given comes last, and takes the place of what has its name."""
    suite = OmegaConf.load(SUITES / f"{name}.yaml")
    own = {argument.split("=", 1)[0] for argument in overrides}
    return [
        [argument for argument in [*suite.settings, *grid] if argument.split("=", 1)[0] not in own] + overrides
        for grid in suite.grids
    ]


def main(arguments: list[str]) -> int:
    """Run the sweeps of a suite and its report, and return the worst exit status."""
    suites = sorted(path.stem for path in SUITES.glob("*.yaml"))
    name, overrides = (arguments[0] if arguments else ""), arguments[1:]
    if {"-h", "--help"} & set(arguments):
        show_usage(f"{__doc__}\nSuites: {', '.join(suites)}")
        return 0
    if name not in suites:
        print(f"error: `suite` = {name!r} is not allowed: one of {', '.join(suites)}", file=sys.stderr)
        return USER_ERROR
    outputs = [argument.removeprefix("output=") for argument in overrides if argument.startswith("output=")]
    output = Path(outputs[-1] if outputs else f"runs/suite-{name}").absolute()
    overrides = [*(argument for argument in overrides if not argument.startswith("output=")), f"output={output}"]
    statuses = [run_module("simulations.sweep", *arguments) for arguments in sweeps(name, overrides)]
    return max([*statuses, run_module("simulations.report", f"runs={output}", f"output={output / 'report'}")])


def run_module(module: str, *arguments: str) -> int:
    """Run a command of this package as `python -m` does; its exit status."""
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
