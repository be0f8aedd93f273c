"""The run beside a run: every client alone, with as much training of its own, and what each of them gained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from collafuse_flwr.config.config import Config, without_unread
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.evaluation.gains import ClientGains, client_distances
from collafuse_flwr.runs.loaded_run import summary_of
from collafuse_flwr.runs.run_dir import open_config, read_config
from collafuse_flwr.runs.run_layout import RunLayout
from simulations import runners
from simulations.sweep.grid import canonical

#: What a client has alone beside what it has with the others.
COMPARED = ("fd", "tstr")


def alone_folder(folder: Path) -> Path:
    """Where the baseline of the run in a folder lies: beside it, so that a report of both has both."""
    return folder.with_name(f"{folder.name}-alone")


def check_folder(folder: Path, resume: bool) -> None:
    """Find before the run that its baseline has no place.

    Raises:
        SettingError: something lies there, and nothing is resumed.
    """
    place = alone_folder(folder)
    if not resume and place.is_dir() and any(place.iterdir()):
        raise SettingError("output", str(folder), f"one beside which {place.name} is free, for `baseline`")


def alone(config: Config, clients: Sequence[Mapping[str, Any]]) -> Config:
    """The settings under which the clients, as rows of a summary, train alone as many image updates as they did.

    A client of CollaFuse has the share k / T of a full denoiser's updates; one that averages whole denoisers has them
    all, unless it was matched to CollaFuse itself. Where cuts differ, clients alone have their mean share: as much in
    all, and each in proportion to its images.
    """
    flat = config.to_flat() | {"strategy": "local"}
    if config.spec.fixed_cut is None:
        images = sum(client["num_images"] for client in clients)
        share = sum(client["cut_step"] * client["num_images"] for client in clients) / images
        share /= config.diffusion.timesteps
        flat |= {"train.match": "client_flops", "cut_ratio": share}
    elif config.train.match != "client_flops":
        flat["train.match"] = "image_updates"
    if not config.diffusion.start_from:
        # No backbone is there to keep parts of.
        flat["client.trained_parts"] = "all"
    return Config.from_flat(without_unread(flat))


def run_alone(folder: Path, console: Console) -> None:
    """Run the baseline of a finished run unless it has been, and write into the run's summary who gained what.

    Raises:
        UserError: the baseline failed, or another run lies in its place.
    """
    config, place = read_config(folder), alone_folder(folder)
    beside, settings = RunLayout(place), alone(config, summary_of(folder))
    if beside.config.is_file() and canonical(open_config(place)) != canonical(settings):
        raise SettingError("output", str(folder), f"one beside which {place.name} is free, not a run of other settings")
    if not beside.summary.is_file():
        resume = beside.checkpoint.is_file()
        run = replace(settings.run, output=str(place), resume=resume, attack=False, baseline="none")
        console.print(f"Every client alone, with as much training of its own: {place}", markup=False, soft_wrap=True)
        runners.run(replace(settings, run=run))
    gains = _compare(RunLayout(folder), beside)
    if gains is None:
        console.print("No FD was measured of both, so nothing says who gained.")
    else:
        console.print(f"{gains.sentence()}: {gains.verdict()}.", markup=False, highlight=False, soft_wrap=True)


def _compare(layout: RunLayout, beside: RunLayout) -> ClientGains | None:
    """Put what the clients had alone into a run's summary; None if there is nothing to compare."""
    summary: dict[str, Any] = json.loads(layout.summary.read_text())
    others = {client["client"]: client for client in summary_of(beside.folder)}
    for client in summary["clients"]:
        own = others.get(client["client"], {})
        client.update({f"{name}_alone": own.get(name) for name in COMPARED})
    pairs = client_distances(summary["clients"], list(others.values()))
    gains = ClientGains.of(pairs) if pairs else None
    if gains is not None:
        summary["pooled"] |= {
            "clients_better_than_alone": gains.better,
            "clients_compared": gains.clients,
            "better_interval": gains.share_interval,
            "fd_ratio_to_alone": gains.ratio,
            "fd_ratio_interval": gains.ratio_interval,
        }
    write_json(layout.summary, summary)
    return gains
