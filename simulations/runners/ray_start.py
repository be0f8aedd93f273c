"""Ray's start on a busy machine.

Ray's node aborts when one of its two agents, each a Python process that imports for seconds, has not written the port
that it has chosen within 15 s; and who starts the node waits 30 s for it. Beside 15 busy processes on two cores neither
is enough, and the run ends with "The current node timed out during startup". Neither can be set, but a node does not
wait for ports that it is given.

Nor does a run need all that Ray starts. What scales a cluster, serves its page and gathers workers' output are three
more Python processes: 2.7 s of processor time before the first client.
"""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import ray
from flwr.simulation.ray_transport import ray_actor
from ray._private import services
from ray._private.node import Node
from ray._raylet import DASHBOARD_AGENT_LISTEN_PORT_NAME, persist_port  # type: ignore[attr-defined]

from simulations.runners.resources import machine
from simulations.runners.result import Stopped
from simulations.runners.superlink import free_port

#: Seconds for Ray to start; as long as environment.py gives to its agents and workers.
START_PATIENCE = 300.0
#: The ports of the agents; the last is only ever read from a file.
PORTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")
#: What starts the processes that a run can do without.
UNUSED = ("start_monitor", "start_api_server", "start_log_monitor")


def start_ray() -> None:
    """Start Ray, which Flower then uses, and take the signals back: Ray would end this process by SIGABRT.

    Raises:
        Stopped: a signal has come meanwhile.
    """
    cpus, gpus = machine()
    # Workers import the apps from where this process does.
    path = os.pathsep.join([*sys.path, *filter(None, [os.environ.get("PYTHONPATH")])])
    # By name, a worker would import Flower's simulation with it, and that its database and web server: 1.5 s.
    by_value: Any = ray.cloudpickle.register_pickle_by_value
    by_value(ray_actor)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with patient_start(), _without_unused():
            ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
            )
    except SystemExit as end:
        raise Stopped(int(end.code or signal.SIGTERM)) from end
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextmanager
def patient_start() -> Iterator[None]:
    """Let a Ray that is started in this process take as long as it needs, up to `START_PATIENCE`."""
    start: Any = services.start_raylet
    get: Any = services.get_node
    with (
        mock.patch.object(services, "start_raylet", partial(_start_raylet, start)),
        mock.patch.object(services, "get_node", partial(_get_node, get)),
    ):
        yield


@contextmanager
def _without_unused() -> Iterator[None]:
    with ExitStack() as stack:
        for name in UNUSED:
            stack.enter_context(mock.patch.object(Node, name, autospec=True))
        yield


def _start_raylet(start: Any, *args: Any, **kwargs: Any) -> Any:
    """Start the node with ports for its agents."""
    kwargs |= {name: free_port() for name in PORTS}
    arguments = inspect.signature(start).bind(*args, **kwargs).arguments
    port = kwargs["dashboard_agent_listen_port"]
    persist_port(arguments["session_dir"], arguments["node_id"], DASHBOARD_AGENT_LISTEN_PORT_NAME, port)
    return start(*args, **kwargs)


def _get_node(get: Any, *arguments: Any) -> Any:
    """The node's description as soon as there is one."""
    deadline = time.monotonic() + START_PATIENCE
    while True:
        try:
            return get(*arguments)
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
