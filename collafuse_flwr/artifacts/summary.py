"""The end of a run: quality measured over all clients' samples, cost and disclosure added up, tables and pictures.

Pooling the samples of all clients is the experimenter's privilege in a simulation: it reads the clients' folders after
the fact, and is no message. Where those folders are elsewhere (deployment), quality stays what the clients reported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

from collafuse_flwr.artifacts.costs import client_costs, lost, server_costs, total
from collafuse_flwr.artifacts.exposure import reidentification
from collafuse_flwr.artifacts.folder import read_config
from collafuse_flwr.artifacts.guarantees import guarantees, in_words
from collafuse_flwr.artifacts.pictures import draw_curves, draw_overview, save_grid
from collafuse_flwr.artifacts.quality import Judge, Samples
from collafuse_flwr.config import Config
from collafuse_flwr.data import FederationData, federation_data, to_model_space
from collafuse_flwr.files import write_json
from collafuse_flwr.folders import client_folder

#: Columns of the table: the number shown, its unit and its digits. FD is the Fréchet distance (lower is better).
COLUMNS: dict[str, tuple[str, float, int]] = {
    "FD": ("fd", 1, 2),
    "TSTR": ("tstr", 1, 3),
    "SNR dB": ("snr_db", 1, 1),
    "bits": ("bits", 1, 1),
    "re-id": ("reid", 1, 3),
    "up kB": ("bytes_up", 1e3, 1),
    "down MB": ("bytes_down", 1e6, 1),
    "GFLOP": ("client_flops", 1e9, 0),
    "s": ("client_seconds", 1, 1),
}
#: Columns of a table of its own, of those that were measured: the numbers that other work reports.
PUBLISHED: dict[str, tuple[str, float, int]] = {
    "FID": ("fid", 1, 2),
    "KID": ("kid", 1, 4),
    "CLIP-FID": ("clip_fid", 1, 2),
}
#: Columns of the overview picture, and images of a client's grid.
SHOWN = 12
GRID = 100


def summarise(folder: Path) -> dict[str, Any]:
    """Measure what the run in a folder produced; write summary.json and the pictures, and return the summary."""
    config = read_config(folder)
    rounds = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clients = client_costs(config, rounds)
    data = _data(config, folder)
    pooled: dict[str, Any] = {}
    if data is not None:
        samples = {c["client"]: s for c in clients if (s := _samples(folder, c["client"])) is not None}
        pooled, rows = Judge.trained_on(data, config).measure(samples)
        pooled |= reidentification(config, data, clients)
        for client in clients:
            client.update(rows.get(client["client"], {}))
        _draw(folder, data, samples)
    values = next((row["values"] for row in rounds), 0)
    summary = {
        "pooled": pooled | total(clients) | (guarantees(config, values, clients) if values else {}),
        "clients": clients,
        "server": server_costs(rounds),
        **lost(rounds),
    }
    write_json(folder / "summary.json", summary)
    draw_curves(rounds, clients, folder / "pictures" / "curves.png")
    return summary


def print_summary(summary: dict[str, Any], folder: Path, console: Console) -> None:
    """Show the summary as a table, with what was lost on the way, and where everything is."""
    table = Table(title="Quality, disclosure and cost", title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for column in ("client", "images", "cut", *COLUMNS):
        table.add_column(column, justify="right")
    for client in summary["clients"]:
        cut = "-" if client["snr_db"] is None else str(client["cut_step"])
        table.add_row(str(client["client"]), str(client["num_images"]), cut, *_cells(client, COLUMNS))
    pooled = summary["pooled"]
    table.add_section()
    table.add_row(
        "pooled", str(sum(c["num_images"] for c in summary["clients"])), "", *_cells(pooled, COLUMNS), style="bold"
    )
    console.print(table)
    if pooled.get("fd_real") is not None:
        console.print(
            "FD is the Fréchet distance to held-out images (lower is better); TSTR is the accuracy on them of a "
            "classifier trained on the samples. "
            f"Real training images: FD {pooled['fd_real']:.2f}, {pooled['tstr_real']:.3f}.",
            highlight=False,
        )
    _print_published(summary, console)
    if said := in_words(read_config(folder), pooled):
        console.print(said, highlight=False)
    server = summary["server"]
    console.print(f"Server: {server['flops'] / 1e9:.0f} GFLOP, {server['seconds']:.0f} s.", highlight=False)
    if summary["failed"] or summary["rejected"]:
        console.print(f"Lost contributions: {summary['failed']} failed, {summary['rejected']} rejected:")
        for loss in summary["lost"]:
            console.print(f"  round {loss['round']}, client {loss['client']}: {loss['reason']}", markup=False)
    console.print(f"Everything is in {folder}", markup=False, soft_wrap=True)


def _print_published(summary: dict[str, Any], console: Console) -> None:
    """Show the distances in published networks, if there are any, with the numbers of images that they depend on."""
    pooled = summary["pooled"]
    columns = {title: column for title, column in PUBLISHED.items() if column[0] in pooled}
    if not columns:
        return
    table = Table(title="In the features of published networks", title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for title in ("client", "samples", "held out", *columns):
        table.add_column(title, justify="right")
    for row in (*summary["clients"], {"client": "pooled"} | pooled):
        heading = (str(row.get(name, "-")) for name in ("client", "num_samples", "num_held_out"))
        table.add_row(*heading, *_cells(row, columns), style="bold" if row["client"] == "pooled" else None)
    console.print(table)
    real = f" Real training images: FID {pooled['fid_real']:.2f}." if "fid_real" in pooled else ""
    console.print(
        "FID and CLIP-FID of few images are biased upwards, most of all below 2048 and 512 images: compare them at "
        f"equal numbers only.{real}",
        highlight=False,
    )


def _cells(row: dict[str, Any], columns: dict[str, tuple[str, float, int]]) -> Sequence[str]:
    """The measured part of a row of a table; what was not measured is a dash."""
    return [_cell(row.get(name), unit, digits) for name, unit, digits in columns.values()]


def _cell(value: float | None, unit: float, digits: int) -> str:
    return "-" if value is None else f"{value / unit:.{digits}f}"


def _data(config: Config, folder: Path) -> FederationData | None:
    """The federation's images, in a simulation; None where clients hold their own elsewhere."""
    if not (folder / "clients").is_dir():
        return None
    return federation_data(config.data, config.run.num_supernodes, config.run.seed)


def _samples(folder: Path, client: int) -> Samples | None:
    path = client_folder(folder, client) / "samples.safetensors"
    if not path.exists():
        return None
    tensors = load_file(path)
    return Samples(tensors["images"], tensors["labels"])


def _draw(folder: Path, data: FederationData, samples: dict[int, Samples]) -> None:
    """Grids of every client's samples, and what was handed over beside what the clients made of it."""
    if not samples:
        return
    pictures = folder / "pictures"
    for client, own in samples.items():
        save_grid(own.images[:GRID], pictures / f"client-{client}.png")
    save_grid(_spread({c: s.images for c, s in samples.items()}, GRID), pictures / "samples.png")
    handed = {int(c): x for c, x in load_file(folder / "server" / "hand_over.safetensors").items() if int(c) in samples}
    save_grid(_spread(handed, GRID), pictures / "hand-over.png")
    real = {c: to_model_space(data.images.images[data.partitions[c].held_out[:SHOWN]]) for c in handed}
    shown = [
        ("held-out images", _spread(real, SHOWN)),
        ("the server's hand-over", _spread(handed, SHOWN)),
        ("finished by the clients", _spread({c: samples[c].images for c in handed}, SHOWN)),
    ]
    draw_overview(
        shown,
        pictures / "overview.png",
        f"{data.images.name}: what the server handed over, and what the clients made of it below",
    )


def _spread(images: dict[int, Tensor], count: int) -> Tensor:
    """`count` images taken from all clients in turn."""
    depth = min(len(own) for own in images.values())
    turns = [own[i] for i in range(depth) for own in images.values()]
    return torch.stack(turns[:count])
