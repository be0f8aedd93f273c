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

#: A column: the number, how it is written, and where its value without information is.
Column = tuple[str, str, str | None]
#: Columns of the table of what was received, and of what it tells.
RECEIVED: dict[str, Column] = {
    "SNR dB": ("snr_db", ".1f", None),
    "bits": ("bits", ".1f", "bits_chance"),
    "I-MMSE": ("bits_denoised", ".1f", "bits_chance"),
    "eps": ("dp_epsilon", ".4g", "dp_epsilon_chance"),
    "sent": ("releases", "d", None),
    "re-id": ("reid", ".3f", "reid_chance"),
    "probe": ("probe_auc", ".2f", "probe_auc_chance"),
}
#: Columns of the table of reconstructions, by their PSNR.
REBUILT: dict[str, Column] = {
    "Wiener": ("psnr_wiener", ".1f", "psnr_chance"),
    "chain": ("psnr_backbone", ".1f", "psnr_chance"),
    "1 step": ("psnr_one_step", ".1f", "psnr_chance"),
    "shadow": ("psnr_shadow", ".1f", "psnr_chance"),
    "grad": ("psnr_gradient", ".1f", "psnr_chance"),
}
#: Columns of the table of networks and samples.
NETWORKS: dict[str, Column] = {
    **{
        f"{title} {attack}": (f"membership_{name}_{key}_auc", ".2f", f"membership_{name}_{key}_auc_chance")
        for title, name in (("server", "backbone"), ("client", "denoiser"))
        for attack, key in (("loss", "loss"), ("SimA", "sima"))
    },
    "error": ("membership_denoiser_loss_auc_error", ".2f", None),
    "repeats": ("memorisation", ".2f", "memorisation_chance"),
    "ratio": ("memorisation_ratio", ".2f", "memorisation_ratio_chance"),
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
            "backbone, 1 step": "psnr_one_step",
            "shadow": "psnr_shadow",
            "gradient": "psnr_gradient",
        },
        "psnr_chance",
    ),
    (
        "Image rebuilt",
        "SSIM",
        {
            "Wiener": "ssim_wiener",
            "backbone": "ssim_backbone",
            "backbone, 1 step": "ssim_one_step",
            "shadow": "ssim_shadow",
            "gradient": "ssim_gradient",
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
    "gradient": "from its gradient",
}


def show_card(rows: Sequence[dict[str, Any]], title: str, console: Console) -> None:
    """Print rows for each client, and a last one with what the attacks would achieve without information."""
    console.print(_table(rows, f"Attacks on what was received: {title}", RECEIVED))
    console.print(
        "bits: at most so many are told of an image, by its covariance; I-MMSE: by the backbone's errors too, beside "
        "the label where that travels; sent: releases of each image; re-id: images named among all training images; "
        "probe: AUC of class or attributes.\n"
    )
    console.print(_table(rows, "Images rebuilt (PSNR in dB)", REBUILT))
    console.print(
        "By a Wiener filter, by the backbone (chain: continued below the cut; 1 step: its estimate), by a shadow "
        "denoiser and from a gradient (where weights are sent).\n"
    )
    console.print(_table(rows, "Attacks on networks and samples", NETWORKS))
    console.print(
        "AUC of membership in the training of the server's and of the client's network, by loss and by SimA, with its "
        "error; repeats: samples whose nearest image was trained on; ratio: distance to such over that to others."
    )


def _table(rows: Sequence[dict[str, Any]], title: str, columns: dict[str, Column]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for column in ("client", "cut", *columns):
        table.add_column(column, justify="right")
    for row in rows:
        measured = (_cell(row.get(name), form) for name, form, _ in columns.values())
        table.add_row(str(row["client"]), str(row["cut_step"]), *measured)
    table.add_section()
    guesses = (_cell(_guess(rows, name, chance), form) for name, form, chance in columns.values())
    table.add_row("guess", "", *guesses, style="bold")
    return table


def draw_card(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw what each attack achieves, by client, over what it would without information."""
    figure = Figure(figsize=(11.5, 6.5), dpi=130, layout="constrained")
    figure.suptitle(f"Leakage: {title} (black lines: no information)", fontsize=11)
    for axis, (heading, unit, series, chance) in zip(figure.subplots(2, 3).flat, PANELS, strict=True):
        for place, (label, name) in enumerate(series.items()):
            shift = 0.16 * (place - (len(series) - 1) / 2)
            known = [(row["client"] + shift, row[name]) for row in rows if row.get(name) is not None]
            if known:
                axis.plot(*zip(*known, strict=True), "osD^v"[place], markersize=6, alpha=0.85, label=label)
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
            axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, columnspacing=1)
        else:
            axis.text(0.5, 0.5, "does not apply", ha="center", va="center", transform=axis.transAxes, color="grey")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def draw_reconstructions(shown: Sequence[Worst], path: Path, title: str) -> None:
    """Draw, of all clients, the images that are reconstructed best, with what was received and what was made of it."""
    best = torch.cat([worst.psnr for worst in shown]).argsort(descending=True)[:SHOWN]
    names = [name for name in RECONSTRUCTIONS if all(name in worst.rows for worst in shown)]
    rows = [(RECONSTRUCTIONS[name], torch.cat([worst.rows[name] for worst in shown])[best]) for name in names]
    draw_overview(rows, path, f"{title}: the images that an attacker rebuilds best")


def _guess(rows: Sequence[dict[str, Any]], name: str, chance: str | None) -> float | None:
    """The mean of the values without information, of the clients that were attacked in this way."""
    known = [row[chance] for row in rows if chance is not None and row.get(name) is not None]
    return statistics.fmean(known) if known else None


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
