"""The runs that a report is about, found in folders."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError, UserError
from collafuse_flwr.runs.run_dir import read_config
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.attack.spec import Column
from simulations.sweep.grid import canonical, fingerprint


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its folder, its settings and its summary."""

    folder: Path
    config: Config
    summary: dict[str, Any]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the run computes, as in `simulations.sweep.grid.canonical`."""
        return canonical(self.config)

    @property
    def clients(self) -> list[dict[str, Any]]:
        """The summary's rows, one per client."""
        rows: list[dict[str, Any]] = self.summary["clients"]
        return rows

    @property
    def attacks(self) -> list[dict[str, Any]]:
        """Results of attacks on the run, one row per client; none if it was not attacked.

        Raises:
            UserError: the file cannot be read.
        """
        rows: list[dict[str, Any]] = self._attack_results["clients"]
        return rows

    @property
    def attack_columns(self) -> list[Column]:
        """The columns of others' attacks, which need not be installed here.

        Raises:
            UserError: the file cannot be read.
        """
        return [Column(**column) for column in self._attack_results.get("columns", ())]

    @cached_property
    def _attack_results(self) -> dict[str, Any]:
        path = RunLayout(self.folder).attack_results
        if not path.is_file():
            return {"clients": []}
        try:
            results: dict[str, Any] = json.loads(path.read_text())
            _ = results["clients"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        return results

    @property
    def released(self) -> str:
        """What left the clients where signal-to-noise ratios say nothing, in a word or two; else ''."""
        if "images" not in self.config.spec.sends and self.config.spec.sends:
            return self.config.spec.sends[0]
        steps = [client["cut_step"] for client in self.clients]
        if 0 in steps:
            return "clean images"
        return "nothing" if all(step == self.config.diffusion.timesteps for step in steps) else ""


def collect(folders: Sequence[Path]) -> list[Run]:
    """The finished runs in and below some folders, each once, in order of their paths.

    Raises:
        SettingError: a folder does not exist, or there is no finished run.
        UserError: a run cannot be read.
    """
    runs_by_name: dict[str, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise SettingError("runs", str(folder), "folders, separated by commas")
        for path in sorted(_finished(folder)):
            run = _read(path)
            runs_by_name.setdefault(fingerprint(run.config), run)
    if not runs_by_name:
        raise SettingError("runs", ",".join(map(str, folders)), "folders that hold finished runs (summary.json)")
    return list(runs_by_name.values())


def _finished(folder: Path) -> Iterator[Path]:
    for path, below, files in os.walk(folder):
        layout = RunLayout(Path(path).absolute())
        if layout.config.name in files:
            # A run holds no other runs, but many folders.
            below.clear()
            if layout.summary.name in files:
                yield layout.folder


def _read(folder: Path) -> Run:
    try:
        summary = json.loads(RunLayout(folder).summary.read_text())
        if not isinstance(summary, dict) or not {"pooled", "clients", "server"} <= summary.keys():
            raise ValueError("summary.json holds no summary")
        return Run(folder, read_config(folder), summary)
    except ValueError as error:
        raise UserError(f"the run in {folder} cannot be read: {error}") from error
