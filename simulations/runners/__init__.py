"""What starts a run: in this process, in Flower's Ray simulation, or through `flwr run`.

Each runner is `run_<name>(config) -> RunResult` in the module of its name; they are imported on demand, because Ray
alone takes seconds to import.
"""

from __future__ import annotations

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import RunFailed
from simulations.runners.environment import prepare_environment
from simulations.runners.result import RunResult

# Here, because flwr reads some of these variables when it is imported, and every runner imports it.
prepare_environment()

__all__ = ["RunFailed", "RunResult", "run"]


def run(config: Config) -> RunResult:
    """Run what the settings describe with the runner that they name.

    Raises:
        UserError: the run did not complete.
    """
    if config.run.runner == "local":
        from simulations.runners.local import run_local  # noqa: PLC0415 - see the module's docstring

        return run_local(config)
    if config.run.runner == "ray":
        from simulations.runners.ray import run_ray  # noqa: PLC0415

        return run_ray(config)
    from simulations.runners.flwr import run_flwr  # noqa: PLC0415

    return run_flwr(config)
