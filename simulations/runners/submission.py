"""A run that a SuperLink carries out: submitted, followed, and how it really ended; `flwr run` exits 0 in any case."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

from collafuse_flwr.core.errors import RunFailed, SettingError
from simulations.runners.run_log import RunLog
from simulations.runners.superlink import FlowerCli

#: How a run ends that has done what it was to do.
COMPLETED = "finished:completed"


def submit(cli: FlowerCli, *arguments: str) -> int:
    """Hand an app to a SuperLink, with the arguments of `flwr run`; the id of the run.

    Raises:
        RunFailed: it is refused, or the SuperLink cannot be reached.
    """
    answer = cli.flwr("run", *arguments, "--format", "json")
    document = _json(answer.stdout)
    if answer.returncode or "run-id" not in document:
        reason = document.get("error-message") or (answer.stdout + answer.stderr)
        raise RunFailed(f"flwr run refused the app: {' '.join(str(reason).split())}")
    return int(document["run-id"])


def status_of(cli: FlowerCli, run_id: int, *superlink: str) -> dict[str, Any]:
    """What a SuperLink says of a run, by default the one that `flwr` takes.

    Raises:
        SettingError: it has no such run.
        RunFailed: it cannot be reached.
    """
    answer = cli.flwr("ls", *superlink, "--run-id", str(run_id), "--format", "json")
    document = _json(answer.stdout)
    if runs := document.get("runs"):
        return dict(runs[0])
    reason = " ".join(str(document.get("error-message") or (answer.stdout + answer.stderr)).split())
    if "run id not found" in reason.lower():
        raise SettingError("run-id", run_id, f"a run of this SuperLink ({reason})")
    raise RunFailed(f"the SuperLink does not say how the run ended: {reason}")


def follow(cli: FlowerCli, run_id: int, log: RunLog, *superlink: str) -> None:
    """Read the log of a run until it is finished.

    Raises:
        SettingError: there is no such run.
        UserError: what its server raised, or `RunFailed` if it ended in any other way, or can no longer be reached.
    """
    status = status_of(cli, run_id, *superlink)
    while True:
        log.rewind()
        command = cli.command("log", str(run_id), *superlink, "--stream")
        with subprocess.Popen(
            command, env=cli.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as stream:
            try:
                for line in stream.stdout or ():
                    log.add(line)
            finally:
                stream.kill()
        status = status_of(cli, run_id, *superlink)
        if str(status["status"]).startswith("finished"):
            break
        # The stream broke off, or ended just before the status was set.
        time.sleep(1)
    if status["status"] != COMPLETED:
        raise log.failure(status["status"], status.get("status-details") or "")


def _json(text: str) -> dict[str, Any]:
    """The JSON object in the output of a command, after whatever else it says."""
    try:
        return dict(json.loads(text[text.index("{") :]))
    except ValueError:
        return {}
