"""A run on any SuperLink, with its real exit status: `python -m simulations.submit APP SUPERLINK OPTIONS`.

    python -m simulations.submit @collafuse/collafuse-flwr==0.1.0 hospitals --run-config "num-rounds=10"
    python -m simulations.submit --run-id ID SUPERLINK

The first is `flwr run APP SUPERLINK OPTIONS --stream`, and the second follows a run that was submitted before.
SUPERLINK is a connection of Flower's config.toml. `flwr run` exits with 0 also where the run failed. This exits with 0
if the run has completed, with 1 if it failed, was stopped, or cannot be reached, and with 2 where there is no such run,
or its server refused a setting. Ctrl-C ends the command alone; `flwr stop ID SUPERLINK` stops the run.
"""

from __future__ import annotations

import os
import sys

from collafuse_flwr.core.errors import SettingError
from simulations.cli import command
from simulations.runners.environment import prepare_environment
from simulations.runners.run_log import RunLog
from simulations.runners.submission import follow, submit
from simulations.runners.superlink import FlowerCli, with_scripts

USAGE = "APP SUPERLINK and options of `flwr run`, or --run-id ID SUPERLINK"


def _act(arguments: list[str]) -> int:
    prepare_environment()
    cli, words = FlowerCli(with_scripts(os.environ)), arguments[:2]
    if arguments[:1] == ["--run-id"]:
        if len(arguments) != 3 or not arguments[1].isdecimal():
            raise SettingError("--run-id", " ".join(arguments[1:]), f"a number and a connection: {USAGE}")
        run_id, superlink = int(arguments[1]), arguments[2]
    elif len(words) < 2 or any(word.startswith("-") for word in words):
        raise SettingError("arguments", " ".join(words), USAGE)
    else:
        superlink = words[1]
        run_id = submit(cli, *arguments)
        print(f"run {run_id} at {superlink}", flush=True)
    with RunLog(None, show=True) as log:
        follow(cli, run_id, log, superlink)
    return 0


main = command(_act, usage=str(__doc__).strip(), going_on="the run itself goes on")

if __name__ == "__main__":
    sys.exit(main())
