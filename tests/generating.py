"""Runs that generate, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.runs.run_layout import RunLayout
from simulations import generate
from strategies.generation import generate_together
from tests.small_runs import connect

#: Three kinds of clients: the server makes all of its images, both do, or it alone does.
CUTS = [0, 0.3, 1]


def generating(folder: Path, num_images: int = 5, **settings: Any) -> Config:
    given = {name.replace("__", "."): value for name, value in settings.items()}
    given = {"task": "generate", "output": str(folder), "generate.num_images": num_images, "quiet": True} | given
    return Config.from_flat({"runner": "local", "num_supernodes": 3} | given)


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def own(run: Path, client: int, number: int = 1) -> Path:
    """Where a client of a simulation has what was generated."""
    return RunLayout(run).client(client).folder / "generated" / f"{number:04d}"


def alone(folder: Path, output: Path, *arguments: str) -> dict[str, bytes]:
    """What simulations.generate makes of the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["generate", f"run={folder}", f"output={output}", *arguments])
        assert generate.main() == 0
    return pictures(output)


def answer_otherwise(client: int, kind: str, reply: Callable[[Message], Message]) -> ClientApp:
    """The ClientApp, but one client answers messages of a kind in its own way."""

    def call(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == client and message.metadata.message_type == kind:
            return reply(message)
        return client_app(message, context)

    app = ClientApp()
    for name in ("client_info", "images_wanted", "generate"):
        app.query(name)(call)
    return app


def generate_with(app: ClientApp, config: Config, partitions: list[int] | None = None) -> None:
    """A run that generates, with other clients."""
    generate_together(config, connect(config, app, partitions), Progress(quiet=True), 7)
