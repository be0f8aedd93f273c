"""Where a run keeps what: the same on the server and, in simulation, on its clients."""

from __future__ import annotations

from pathlib import Path

from collafuse_flwr.config.config import Config


def run_folder(config: Config, run_id: int) -> Path:
    """The run's folder: `output`, or runs/<run id> where the program was started."""
    return Path(config.run.output or f"runs/{run_id}").absolute()


def client_folder(run: Path, client: int) -> Path:
    """The folder of one client in a simulation."""
    return run / "clients" / str(client)
