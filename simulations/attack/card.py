"""The leakage card: what attacks achieve beside what they would without information, as a table and pictures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich import box
from rich.console import Console
from rich.table import Table

from collafuse_flwr.artifacts import draw_overview
from collafuse_flwr.files import replacing
from simulations.attack.rebuilding import SHOWN, Worst

#: Columns of the table: the number, its digits, and where its value without information is.
COLUMNS = {
    "SNR dB": ("snr_db", 1, None),
    "bits": ("bits", 1, None),
    "eps": ("dp_epsilon", 1, None),
    "re-id": ("reid", 3, "reid_chance"),
    "Wiener": ("psnr_wiener", 1, "psnr_chance"),
    "chain": ("psnr_backbone", 1, "psnr_chance"),
    "1 step": ("psnr_one_step", 1, "psnr_chance"),
    "shadow": ("psnr_shadow", 1, "psnr_chance"),
    "SSIM": ("ssim_shadow", 2, "ssim_chance"),
    "probe": ("probe_auc", 2, "probe_auc_chance"),
    "server": ("membership_backbone_loss_auc", 2, "membership_backbone_loss_auc_chance"),
    "client": ("membership_denoiser_loss_auc", 2, "membership_denoiser_loss_auc_chance"),
    "repeats": ("memorisation", 2, "memorisation_chance"),
}
#: Panels of the picture: title, axis, series by name in the legend, and where the value without information is.
PANELS: tuple[tuple[str, str, dict[str, str], str], ...] = (
    ("Image named among all", "rate", {"all releases": "reid", "one release": "reid_one"}, "reid_chance"),
    (
        "Image rebuilt",
        "PSNR in dB",
        {
            "Wiener": "psnr_wiener",
            "backbone": "psnr_backbone",
            "its estimate": "psnr_one_step",
            "shadow": "psnr_shadow",
        },
        "psnr_chance",
    ),
    (
        "Image rebuilt",
        "SSIM",
        {
            "Wiener": "ssim_wiener",
            "backbone": "ssim_backbone",
            "its estimate": "ssim_one_step",
            "shadow": "ssim_shadow",
        },
        "ssim_chance",
    ),
    ("Class or attribute read off", "AUC", {"probe": "probe_auc"}, "probe_auc_chance"),
    (
        "Training image told from others",
        "AUC",
        {
            "server, loss": "membership_backbone_loss_auc",
            "server, SimA": "membership_backbone_sima_auc",
            "client, loss": "membership_denoiser_loss_auc",
            "client, SimA": "membership_denoiser_sima_auc",
        },
        "",
    ),
    ("Samples repeat training images", "share", {"nearest is trained on": "memorisation"}, "memorisation_chance"),
)
#: Axes that are shares, from 0 to 1.
SHARES = ("rate", "SSIM", "AUC", "share")
#: Rows of the picture of reconstructions, in order.
RECONSTRUCTIONS = {
    "original": "original",
    "received": "received (one)",
    "wiener": "Wiener filter",
    "backbone": "backbone, continued",
    "one_step": "backbone, estimate",
    "shadow": "shadow denoiser",
}


def show_card(rows: Sequence[dict[str, Any]], title: str, console: Console) -> None:
    """Print a row for each client, and a last one with what the attacks would achieve without information."""
    table = Table(title=f"Attacks: {title}", title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for column in ("client", "cut", "sent", *COLUMNS):
        table.add_column(column, justify="right")
    for row in rows:
        heading = (str(row[name]) for name in ("client", "cut_step", "releases"))
        table.add_row(*heading, *(_cell(row.get(name), digits) for name, digits, _ in COLUMNS.values()))
    table.add_section()
    guesses = [_cell(_mean(rows, chance), digits) for _, digits, chance in COLUMNS.values()]
    table.add_row("no information", "", "", *guesses, style="bold")
    console.print(table)
    console.print(
        "sent: releases of each image; re-id: images named among all training images; Wiener, chain, 1 step (of the "
        "backbone) and shadow: PSNR of reconstructions in dB, SSIM: the shadow's; probe: AUC of class or attributes; "
        "server, client: AUC of membership in the training of their networks, by loss; repeats: samples whose nearest "
        "image was trained on."
    )


def draw_card(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw what each attack achieves, by client, over what it would without information."""
    figure = Figure(figsize=(11, 6), dpi=130, layout="constrained")
    figure.suptitle(f"Leakage: {title} (black lines: no information)", fontsize=11)
    for axis, (heading, unit, series, chance) in zip(figure.subplots(2, 3).flat, PANELS, strict=True):
        for place, (label, name) in enumerate(series.items()):
            shift = 0.16 * (place - (len(series) - 1) / 2)
            known = [(row["client"] + shift, row[name]) for row in rows if row.get(name) is not None]
            if known:
                axis.plot(*zip(*known, strict=True), "osD^"[place], markersize=6, alpha=0.85, label=label)
        for row in rows:
            guess = row.get(chance) if chance else 0.5
            if guess is not None:
                axis.hlines(guess, row["client"] - 0.4, row["client"] + 0.4, color="black", linewidth=1.5)
        axis.set_title(heading, fontsize=10)
        axis.set(xlabel="client", ylabel=unit, xlim=(-0.6, max(row["client"] for row in rows) + 0.6))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(axis="y", alpha=0.3)
        if unit in SHARES:
            axis.set_ylim(-0.03, 1.03)
        if axis.lines:
            axis.legend(fontsize=7, loc="best")
        else:
            axis.text(0.5, 0.5, "does not apply", ha="center", va="center", transform=axis.transAxes, color="grey")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def draw_reconstructions(shown: Sequence[Worst], path: Path, title: str) -> None:
    """Draw, of all clients, the images that are reconstructed best, with what was received and what was made of it."""
    best = torch.cat([worst.psnr for worst in shown]).argsort(descending=True)[:SHOWN]
    names = [name for name in RECONSTRUCTIONS if all(name in worst.rows for worst in shown)]
    rows = [(RECONSTRUCTIONS[name], torch.cat([worst.rows[name] for worst in shown])[best]) for name in names]
    draw_overview(rows, path, f"{title}: the uploaded images that an attacker rebuilds best")


def _mean(rows: Sequence[dict[str, Any]], name: str | None) -> float | None:
    known = [row[name] for row in rows if name is not None and row.get(name) is not None]
    return statistics.fmean(known) if known else None


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
