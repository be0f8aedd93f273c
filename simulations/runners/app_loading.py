"""The two apps, by reference, and the identity that a process needs to run them outside Flower's own commands."""

from __future__ import annotations

import pkgutil
import secrets
from typing import TypeVar

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import ServerApp
from flwr.supercore.task_identity import TaskIdentity

from collafuse_flwr.config.config import Config
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.runners.result import RunResult

A = TypeVar("A", ServerApp, ClientApp)
SERVER_APP = "collafuse_flwr.server_app:app"
CLIENT_APP = "collafuse_flwr.client_app:app"


def load_app(reference: str, kind: type[A]) -> A:
    """The ServerApp or ClientApp at `module:attribute`.

    Raises:
        TypeError: something else is there.
    """
    app = pkgutil.resolve_name(reference)
    if not isinstance(app, kind):
        raise TypeError(f"{reference} is no {kind.__name__}")
    return app


def begin_run() -> int:
    """Draw a run id and make this process the server's: messages take their sender and run from it."""
    run_id = secrets.randbits(62) + 1
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SUPERLINK_NODE_ID, 1
    return run_id


def server_context(config: Config, run_id: int) -> Context:
    """The context of the ServerApp: what Flower would pass to it."""
    return Context(run_id, SUPERLINK_NODE_ID, {}, RecordDict(), config.to_flower())


def result(config: Config, run_id: int) -> RunResult:
    """The result of a run that is complete."""
    return RunResult(run_id, RunLayout.of(config, run_id).folder)
