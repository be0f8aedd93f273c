"""Flower apps that tests write."""

from __future__ import annotations

from pathlib import Path

import tomli_w

from collafuse_flwr.config.config import Config


def write_project(folder: Path, name: str, server: str, client: str) -> None:
    """The pyproject.toml of an app with our settings, and two apps as module:name."""
    app = {
        "publisher": "tests",
        "components": {"serverapp": server, "clientapp": client},
        "config": Config().to_flower(),
    }
    project = {"name": name, "version": "0.1.0", "description": name, "license": "Apache-2.0"}
    (folder / "pyproject.toml").write_text(tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}}))
