"""The run in Flower's Ray simulation: clients in worker processes, the server in a thread of this one."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import ray
import tomli_w
from flwr.clientapp import ClientApp
from flwr.server.superlink.fleet.vce.backend.backend import BackendConfig
from flwr.serverapp import ServerApp
from flwr.simulation.run_simulation import _run_simulation
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.run import Run
from flwr.supercore.telemetry import EventType

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import RunFailed, SettingError
from simulations.runners.app_loading import (
    CLIENT_APP,
    SERVER_APP,
    begin_run,
    load_app,
    result,
    server_context,
)
from simulations.runners.environment import quiet_flwr
from simulations.runners.ray_start import start_ray
from simulations.runners.resources import check_resources, machine
from simulations.runners.result import RunResult, describe
from simulations.runners.server_thread import ServerThread
from simulations.runners.stack_app import StackedApp
from simulations.runners.stack_grid import StackGrid, partitions_by_node
from simulations.runners.stack_size import StackSize

#: The versions of flwr whose private entry point is known to work; `run_simulation` cannot pass a run config.
FLWR_VERSIONS = ("1.41.", "1.42.")


def run_ray(config: Config, *, server_app: str = SERVER_APP, client_app: str = CLIENT_APP) -> RunResult:
    """Run the clients in Ray, as many at a time as there is room for.

    Args:
        config: the settings of the run.
        server_app: where the ServerApp is, as `module:attribute`.
        client_app: where the ClientApp is; workers import it from where this process does.

    Raises:
        UserError: what the server raised, or `RunFailed` from any other error.
        SettingError: the machine has no room for a client, or flwr is of another version.
    """
    if not version("flwr").startswith(FLWR_VERSIONS):
        raise SettingError("runner", "ray", f"flwr {version('flwr')} is not known to work, use `local` or `flwr`")
    check_resources(config.resources)
    quiet_flwr()
    app, client = load_app(server_app, ServerApp), load_app(client_app, ClientApp)
    run_id = begin_run()
    run = Run.create_empty(run_id)
    run.primary_task_id, run.federation_id = 1, NOOP_FEDERATION_ID
    with _app_folder(config) as folder, _calm(), partitions_by_node() as partitions:
        size = StackSize(config, run_id, workers=_workers(config))
        server = ServerThread(lambda grid, context: app(StackGrid(grid, size, partitions), context))
        try:
            start_ray()
            _run_simulation(
                num_supernodes=config.run.num_supernodes,
                exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
                server_app=server,  # type: ignore[arg-type] # it is only ever called
                client_app=StackedApp(client),  # type: ignore[arg-type] # as well
                server_app_context=server_context(config, run_id),
                app_dir=str(folder),
                is_app=True,
                run=run,
                backend_config=_backend(config),
            )
        except Exception as error:
            if not server.failed:
                raise RunFailed(f"the simulation stopped with {describe(_root(error))}") from error
        finally:
            server.stop()
            ray.shutdown()
    server.check()
    return result(config, run_id)


def _workers(config: Config) -> int:
    """How many clients Flower has at work at a time."""
    resources, (cpus, gpus) = config.resources, machine()
    workers = int(cpus / resources.client_num_cpus)
    return min(workers, int(gpus / resources.client_num_gpus)) if resources.client_num_gpus else workers


def _backend(config: Config) -> BackendConfig:
    """Flower's settings of Ray."""
    resources = config.resources
    return {
        "client_resources": {
            "num_cpus": resources.client_num_cpus,
            "num_gpus": resources.client_num_gpus,
            # Handed on to Ray as it is: without it a worker that died stays in the pool and fails what it is given.
            "max_restarts": -1,
        },
    }


@contextmanager
def _app_folder(config: Config) -> Iterator[Path]:
    """A folder with the pyproject.toml from which Flower takes the clients' run config, wherever the code lies."""
    app = {
        "publisher": "local",
        "components": {"serverapp": SERVER_APP, "clientapp": CLIENT_APP},
        "config": config.to_flower(),
    }
    with tempfile.TemporaryDirectory(prefix="collafuse-") as folder:
        document = {"project": {"name": "collafuse-flwr", "version": "0"}, "tool": {"flwr": {"app": app}}}
        (Path(folder) / "pyproject.toml").write_text(tomli_w.dumps(document))
        yield Path(folder)


@contextmanager
def _calm() -> Iterator[None]:
    """Keep noise from the terminal, and Flower's additions out of this process's PYTHONPATH."""
    before, logger = os.environ.get("PYTHONPATH"), logging.getLogger("flwr")
    logger.addFilter(_is_news)
    try:
        with warnings.catch_warnings():
            # What the tip suggests would let clients with `resources.client_num_gpus` = 0 use every GPU.
            warnings.filterwarnings("ignore", "Tip: In future versions of Ray", FutureWarning)
            yield
    finally:
        logger.removeFilter(_is_news)
        if before is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = before


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line is none of the three with which Flower tells that a worker is dead, for each message again."""
    text = record.getMessage()
    noise = "when processing a message by RayBackend", "ray.exceptions.Actor"
    return not isinstance(record.msg, ray.exceptions.RayActorError) and not any(part in text for part in noise)


def _root(error: BaseException) -> BaseException:
    """The error at the bottom of a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
