"""Environment variables of torch, flwr and Ray, in one place because most are read once, at import."""

from __future__ import annotations

import logging
import os

#: What every run sets, unless the user has set it already.
VARIABLES = {
    # Torch's threads spin while they wait for each other. On a machine with other work to do, the default made a step
    # of a small network 10 times slower; without any, an idle machine was 1.7 times slower.
    "GOMP_SPINCOUNT": "5000",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # By default every run installs torch anew, which takes minutes and has broken runs that were finished.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_LOG_LEVEL": "WARNING",
    # Of processes that wait for a message to handle; the default of a second is longer than most rounds here.
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
    "RAY_USAGE_STATS_ENABLED": "0",
    # By default Ray's workers give way to everything else: four, beside four busy processes on two cores, had 2 % of a
    # core each.
    "RAY_worker_niceness": "0",
    # The defaults are 30 and 60 s; each of these processes imports for seconds, which are minutes on a busy machine.
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
    # Started by `uv run`, Ray would start its workers by `uv run` as well, in a copy of the working directory.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


def prepare_environment() -> None:
    """Set the variables for this process and its children; call it before torch, flwr or Ray is imported."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


def quiet_flwr() -> None:
    """Hold flwr's console log to FLWR_LOG_LEVEL, also when flwr was imported before the variable was set."""
    from flwr.supercore.logger import update_console_handler  # noqa: PLC0415 - not before the environment is set

    level = os.environ.get("FLWR_LOG_LEVEL", "WARNING").upper()
    update_console_handler(level=level if level in logging.getLevelNamesMapping() else "WARNING")
