"""The map of where collaboration pays and where it hides, from finished runs: in words, as a table and a picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich import box
from rich.console import Console
from rich.table import Table

from collafuse_flwr.core.atomic_io import atomic_write, write_json
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.evaluation.gains import ClientGains, client_distances
from simulations.report.load_runs import Run, collect

#: Colours end at twice and at half the distance alone.
FACTOR = 2.0


@dataclass(frozen=True)
class AdviceCell:
    """What a cut was worth to clients of so many images: their gains, the FD of all samples, and what uploads showed.

    `reid` is the share of images that are re-identified from uploads, of the client that shows most, over seeds.
    """

    images: int
    cut: float
    fd: float
    fd_alone: float
    reid: float
    gains: ClientGains

    @property
    def pays(self) -> bool:
        """Whether most clients gain: beyond the bootstrap's doubt, where there are enough of them for one."""
        if self.gains.share_interval is None:
            return self.gains.better > self.gains.clients / 2
        return self.gains.share_interval[0] > 1 / 2


def read_cells(folder: Path, images: int, cuts: Sequence[float]) -> list[AdviceCell]:
    """The row of the map whose runs lie in a folder; cuts whose runs, or those alone, are not finished are left out."""
    try:
        runs = collect([folder])
    except SettingError:
        return []
    alone = {run.config.run.seed: run for run in runs if run.config.run.strategy == "local"}
    cells = []
    for cut in cuts:
        own = [run for run in runs if run.config.spec.fixed_cut is None and run.config.cut.cut_ratio == cut]
        pairs = [(run, alone[run.config.run.seed]) for run in own if run.config.run.seed in alone]
        if cell := _cell(images, cut, pairs):
            cells.append(cell)
    return cells


def _cell(images: int, cut: float, pairs: Sequence[tuple[Run, Run]]) -> AdviceCell | None:
    distances = [pair for run, alone in pairs for pair in client_distances(run.clients, alone.clients)]
    if not distances:
        return None

    def mean(key: str, place: int) -> float:
        return statistics.fmean(float(pair[place].summary["pooled"][key]) for pair in pairs)

    return AdviceCell(images, cut, mean("fd", 0), mean("fd", 1), mean("reid", 0), ClientGains.of(distances))


def advice(cells: Sequence[AdviceCell], max_reid: float) -> str:
    """Where collaboration pays and hides, in a sentence or two."""
    both = [cell for cell in cells if cell.pays and cell.reid <= max_reid]
    if both:
        return f"Collaboration pays for most clients, at no more than {max_reid:.0%} re-identified: {_places(both)}."
    words = f"Nowhere on this map does collaboration pay for most clients at no more than {max_reid:.0%} re-identified."
    pays, hides = ([cell for cell in cells if cell.pays], [cell for cell in cells if cell.reid <= max_reid])
    words += f" It pays {_places(pays)}." if pays else " It pays nowhere."
    return f"{words} It hides {_places(hides)}." if hides else f"{words} It hides nowhere."


def _places(cells: Sequence[AdviceCell]) -> str:
    cuts: dict[int, list[str]] = {}
    for cell in cells:
        cuts.setdefault(cell.images, []).append(f"{cell.cut:g}")
    return "; ".join(f"with {images} images at c = {', '.join(own)}" for images, own in cuts.items())


def print_map(cells: Sequence[AdviceCell], console: Console) -> None:
    """Show the map as a table."""
    cuts = sorted({cell.cut for cell in cells})
    title = "FD of the median client / its FD alone (clients that gain), images re-identified"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("images", justify="right")
    table.add_column("FD alone", justify="right")
    for cut in cuts:
        table.add_column(f"c = {cut:g}", justify="right")
    for images in sorted({cell.images for cell in cells}):
        row = {cell.cut: cell for cell in cells if cell.images == images}
        alone = next(iter(row.values())).fd_alone
        texts = (_text(row[cut]) if cut in row else "-" for cut in cuts)
        table.add_row(str(images), f"{alone:.2f}", *texts)
    console.print(table)


def _text(cell: AdviceCell, separator: str = ", ") -> str:
    gains = cell.gains
    return f"{gains.ratio:.2f} ({gains.better}/{gains.clients}){separator}{cell.reid:.0%}"


def draw_map(cells: Sequence[AdviceCell], max_reid: float, path: Path) -> None:
    """Draw the map: green where the median client gains, with a frame where little is re-identified."""
    images, cuts = (sorted({getattr(cell, name) for cell in cells}) for name in ("images", "cut"))
    ratios = np.full((len(images), len(cuts)), np.nan)
    figure = Figure(figsize=(1.9 + 1.5 * len(cuts), 1.6 + 0.8 * len(images)), layout="constrained", dpi=130)
    axes = figure.subplots()
    for cell in cells:
        row, column = images.index(cell.images), cuts.index(cell.cut)
        ratios[row, column] = np.log2(cell.gains.ratio)
        axes.text(column, row, _text(cell, "\n"), ha="center", va="center", fontsize=9)
        if cell.reid <= max_reid:
            axes.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fill=False, linewidth=2.5))
    limit = np.log2(FACTOR)
    colours = TwoSlopeNorm(0, -limit, limit)
    image = axes.imshow(ratios.clip(-limit, limit), cmap="PiYG_r", norm=colours, aspect="auto", origin="lower")
    axes.set_xticks(range(len(cuts)), [f"{cut:g}" for cut in cuts])
    axes.set_yticks(range(len(images)), [str(count) for count in images])
    axes.set_xlabel("cut ratio c (clients' share of the steps)")
    axes.set_ylabel("training images of a client")
    bar = figure.colorbar(image, ticks=[-limit, 0, limit])
    bar.ax.set_yticklabels(["half or less", "as alone", "twice or more"])
    bar.set_label("FD of the median client", labelpad=-20)
    axes.set_title(
        "Green: the median client gains over training alone (clients that gain).\n"
        f"Below: images re-identified; framed where that is at most {max_reid:.0%}.",
        fontsize=9,
        loc="left",
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def save_map(cells: Sequence[AdviceCell], sentence: str, path: Path) -> None:
    """Keep the map's numbers, and what is said of them."""
    write_json(path, {"advice": sentence, "cells": [asdict(cell) | {"pays": cell.pays} for cell in cells]})
