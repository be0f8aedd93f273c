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

from collafuse_flwr.core.atomic_io import atomic_write
from collafuse_flwr.runs.figures import draw_overview
from simulations.attack.reconstruction import SHOWN, BestReconstructions
from simulations.attack.report_spec import SHARES, AttackReportSpec, Column

#: Rows of the picture of reconstructions, in order.
RECONSTRUCTIONS = {
    "original": "original",
    "received": "received (one)",
    "wiener": "Wiener filter",
    "backbone": "backbone, continued",
    "one_step": "backbone, estimate",
    "shadow": "shadow denoiser",
    "gradient": "from its gradient",
    "split": "from its activations",
}


def show_card(card: AttackReportSpec, rows: Sequence[dict[str, Any]], title: str, console: Console) -> None:
    """Print rows for each client, and a last one with what the attacks would achieve without information."""
    for place, (heading, columns, explained) in enumerate(card.tables):
        told = heading if place else f"{heading}: {title}"
        console.print(_table(rows, told, card.cut, columns))
        console.print(explained + ("" if place + 1 == len(card.tables) else "\n"))


def _table(rows: Sequence[dict[str, Any]], title: str, cut: str, columns: dict[str, Column]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for column in ("client", "cut", *columns):
        table.add_column(column, justify="right")
    for row in rows:
        measured = (_cell(row.get(name), form) for name, form, _ in columns.values())
        table.add_row(str(row["client"]), str(row[cut]), *measured)
    table.add_section()
    guesses = (_cell(_guess(rows, name, chance), form) for name, form, chance in columns.values())
    table.add_row("guess", "", *guesses, style="bold")
    return table


def draw_card(card: AttackReportSpec, rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw what each attack achieves, by client, over what it would without information."""
    lines = len(card.panels) // 3
    figure = Figure(figsize=(11.5, 0.5 + 3 * lines), dpi=130, layout="constrained")
    figure.suptitle(f"Leakage: {title} (black lines: no information)", fontsize=11)
    for axis, (heading, unit, series, chance) in zip(figure.subplots(lines, 3).flat, card.panels, strict=True):
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
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def draw_reconstructions(shown: Sequence[BestReconstructions], path: Path, title: str) -> None:
    """Draw, of all clients, the images that are reconstructed best, with what was received and what was made of it."""
    best = torch.cat([worst.psnr for worst in shown]).argsort(descending=True)[:SHOWN]
    names = [name for name in RECONSTRUCTIONS if all(name in worst.rows for worst in shown)]
    rows = [(RECONSTRUCTIONS[name], torch.cat([worst.rows[name] for worst in shown])[best]) for name in names]
    draw_overview(rows, path, f"{title}: the images that an attacker rebuilds best")


def _guess(rows: Sequence[dict[str, Any]], name: str, chance: str | None) -> float | None:
    """The mean of the values without information, of the clients that were attacked in this way."""
    known = [row[chance] for row in rows if chance is not None and row.get(name) is not None]
    return statistics.fmean(known) if known else None


def _cell(value: float | str | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
