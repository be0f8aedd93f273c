"""The leakage card: what attacks achieve beside what they would without information, as a table and pictures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
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
from simulations.attack.spec import SHOWN, AttackSpec, BestReconstructions, Column, Panel

Rows = Sequence[Mapping[str, Any]]
#: Axes that are shares, from 0 to 1.
SHARES = ("rate", "SSIM", "AUC", "share")
#: Panels side by side.
ACROSS = 3
MARKERS = "osD^vP*X"


def show_card(specs: Sequence[AttackSpec], rows: Rows, title: str, console: Console) -> None:
    """Print rows for each client, and a last one with what the attacks would achieve without information."""
    tables = dict.fromkeys(spec.table for spec in specs)
    for place, heading in enumerate(tables):
        own = [spec for spec in specs if spec.table == heading]
        columns = [column for spec in own for column in spec.columns if column.heading]
        console.print(_table(rows, heading if place else f"{heading}: {title}", columns))
        console.print(" ".join(spec.about for spec in own) + ("" if place + 1 == len(tables) else "\n"))


def _table(rows: Rows, title: str, columns: Sequence[Column]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for heading in ("client", "cut", *(column.heading for column in columns)):
        table.add_column(heading, justify="right")
    for row in rows:
        cut = row.get("cut_step", row.get("client_cuts", "-"))
        table.add_row(str(row["client"]), str(cut), *(_cell(row.get(c.key), c.form) for c in columns))
    table.add_section()
    table.add_row("guess", "", *(_cell(_guess(rows, c), c.form) for c in columns), style="bold")
    return table


def _guess(rows: Rows, column: Column) -> float | None:
    """The mean of the values without information, of the clients that were attacked in this way."""
    values = [row[column.chance] for row in rows if column.chance and row.get(column.key) is not None]
    return statistics.fmean(values) if values else None


def _cell(value: float | str | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def panels(specs: Sequence[AttackSpec]) -> list[Panel]:
    """The panels of some attacks; series that measure the same share one."""
    merged: dict[tuple[str, str], Panel] = {}
    for panel in (panel for spec in specs for panel in spec.panels):
        name = panel.title, panel.unit
        before = merged[name].series if name in merged else {}
        merged[name] = Panel(*name, {**before, **panel.series}, panel.chance)
    return list(merged.values())


def draw_card(specs: Sequence[AttackSpec], rows: Rows, path: Path, title: str) -> None:
    """Draw what each attack achieves, by client, over what it would without information."""
    every = panels(specs)
    lines = max(1, -(-len(every) // ACROSS))
    figure = Figure(figsize=(11.5, 0.5 + 3 * lines), dpi=130, layout="constrained")
    figure.suptitle(f"Leakage: {title} (black lines: no information)", fontsize=11)
    axes = list(figure.subplots(lines, ACROSS).flat)
    for axis, panel in zip(axes, every, strict=False):
        _draw_panel(axis, panel, rows)
    for axis in axes[len(every) :]:
        axis.set_axis_off()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw_panel(axis: Any, panel: Panel, rows: Rows) -> None:
    for place, (label, key) in enumerate(panel.series.items()):
        shift = 0.16 * (place - (len(panel.series) - 1) / 2)
        points = [(row["client"] + shift, row[key]) for row in rows if row.get(key) is not None]
        if points:
            axis.plot(*zip(*points, strict=True), MARKERS[place % len(MARKERS)], markersize=6, alpha=0.85, label=label)
    for row in rows:
        guess = row.get(panel.chance) if isinstance(panel.chance, str) else panel.chance
        if guess is not None:
            axis.hlines(guess, row["client"] - 0.4, row["client"] + 0.4, color="black", linewidth=1.5)
    axis.set_title(panel.title, fontsize=10)
    axis.set(xlabel="client", ylabel=panel.unit, xlim=(-0.6, max(row["client"] for row in rows) + 0.6))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.grid(axis="y", alpha=0.3)
    if panel.unit in SHARES:
        axis.set_ylim(-0.03, 1.03)
    if axis.lines:
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, columnspacing=1)
    else:
        axis.text(0.5, 0.5, "does not apply", ha="center", va="center", transform=axis.transAxes, color="grey")


def draw_reconstructions(spec: AttackSpec, shown: Sequence[BestReconstructions], path: Path, title: str) -> None:
    """Draw, of all clients, the images that are reconstructed best, with what was received and what was made of it."""
    best = torch.cat([worst.psnr for worst in shown]).argsort(descending=True)[:SHOWN]
    names = [name for name in spec.pictures if all(name in worst.rows for worst in shown)]
    rows = [(spec.pictures[name], torch.cat([worst.rows[name] for worst in shown])[best]) for name in names]
    draw_overview(rows, path, f"{title}: the images that an attacker rebuilds best")
