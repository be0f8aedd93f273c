"""The run in this process, client after client: no Ray, no start-up time, errors in plain sight."""

from __future__ import annotations

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from collafuse_flwr.config.config import Config
from simulations.runners.app_loading import (
    CLIENT_APP,
    SERVER_APP,
    begin_run,
    load_app,
    result,
    server_context,
)
from simulations.runners.environment import quiet_flwr
from simulations.runners.local_grid import LocalGrid
from simulations.runners.result import RunResult, raise_failure
from simulations.runners.stack_size import StackSize


def run_local(config: Config, *, server_app: str = SERVER_APP, client_app: str = CLIENT_APP) -> RunResult:
    """Run server and clients in this process.

    Args:
        config: the settings of the run.
        server_app: where the ServerApp is, as `module:attribute`.
        client_app: where the ClientApp is.

    Raises:
        UserError: what the server raised, or `RunFailed` from any other error.
    """
    quiet_flwr()
    server, client = load_app(server_app, ServerApp), load_app(client_app, ClientApp)
    run_id = begin_run()
    size = StackSize(config, run_id)
    grid = LocalGrid(client, run_id, config.to_flower(), config.run.num_supernodes, stack_size=size)
    try:
        server(grid, server_context(config, run_id))
    # A server that leaves by sys.exit() has not completed its run.
    except (Exception, SystemExit) as error:
        raise_failure(error)
    return result(config, run_id)
