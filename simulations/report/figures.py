"""Trade-off curves: every measure against the cut ratio, with levels for what has no cut."""

from __future__ import annotations

import itertools
import math
import statistics
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from collafuse_flwr.core.atomic_io import atomic_write
from simulations.attack.spec import AUC
from simulations.report.aggregate import Row, Section
from simulations.report.leakage import leaks
from simulations.report.load_runs import Run
from simulations.report.metrics import BITS, DOWN, FD, FLOPS, REAL, REID, SECONDS, SNR, TSTR, UP, Measure

#: Values that are further apart than this are drawn on a logarithmic axis.
WIDE = 20
#: Of a legend: its lines at most, and the height that figures have for it.
CHARACTERS_PER_INCH, LEGEND_INCHES = 12, 0.6
#: Panels of leakage side by side.
ACROSS = 4
MARKERS = "osD^vP*X"
DASHES = ("--", "-.", (0, (1, 1)), (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))
#: Of a section in which nothing has a cut.
ONLY_LEVELS = "A bar for each strategy, as none of them has a cut. Mean over seeds, with one standard deviation."
OF_CURVES = "Mean over seeds, shaded by one standard deviation on either side; levels have no cut."
CUT = "cut ratio c (clients' share of the steps)"

#: Every panel: its measure, title and label of the axis.
QUALITY = (
    (FD, "Quality of all samples", "Fréchet distance (lower is better)"),
    (TSTR, "Training on the samples", "accuracy on real images (higher is better)"),
)
DISCLOSED = (
    (SNR, "Signal-to-noise ratio of uploads", "dB (lower hides more)"),
    (BITS, "Bound on what uploads disclose", "bits per image (lower hides more)"),
    (REID, "Re-identification", "rate of re-identified images (lower hides more)"),
)
COST = (
    (FLOPS, "Training of a client", "FLOP per client"),
    (SECONDS, "Training time of a client", "seconds per client"),
    (UP, "Upload", "bytes per client"),
    (DOWN, "Download", "bytes per client"),
)


@dataclass(frozen=True)
class Drawn:
    """A figure: what it is called, what to see in it, where it is, and whether it is a chart or shows images."""

    caption: str
    to_see: str
    path: Path
    is_chart: bool = True


def draw_section(section: Section, folder: Path, stem: str) -> list[Drawn]:
    """Draw a section's figures as PNGs."""
    drawn = []
    for name, caption, to_see, draw in (
        (
            "quality",
            "Quality",
            "A cut pays where its curve is better than the right end, where every client is alone.",
            _quality,
        ),
        (
            "disclosure",
            "Disclosure (of the client that discloses the most)",
            "A cut hides from a server that keeps uploads where its curve is down: look here before quality counts.",
            _disclosure,
        ),
        (
            "cost",
            "Cost of a client",
            "A client's training grows with the cut; its upload is the same at every cut below 1.",
            _cost,
        ),
        (
            "leakage",
            "Attacks (each on the client about which it learns the most)",
            "The server, or who has the networks, learns where a curve is apart from the black dashes, a guess.",
            _leakage,
        ),
    ):
        if (name == "leakage" and not leaks(section)) or (name == "disclosure" and not _discloses(section)):
            continue
        figure = Figure(layout="constrained", dpi=130)
        draw(figure, section)
        _legend(figure)
        path = folder / f"{stem}-{name}.png"
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="png")
        if section.curves:
            drawn.append(Drawn(f"{caption} against the cut ratio", f"{to_see} {OF_CURVES}", path))
        else:
            drawn.append(Drawn(caption, ONLY_LEVELS, path))
    return drawn


def _discloses(section: Section) -> bool:
    """Whether anything is known of what uploads disclose; of weights and activations nothing is, here."""
    return any(_finite(row, measure) is not None for row in section.rows for measure, *_ in DISCLOSED)


def _quality(figure: Figure, section: Section) -> None:
    figure.set_size_inches(13, 4.6)
    pooled, tstr, clients = figure.subplots(1, 3)
    for axis, (measure, title, label) in zip((pooled, tstr), QUALITY, strict=True):
        _panel(axis, section, measure, title, label)
        _level(axis, section, REAL[measure.key], "real training images")
    _clients(clients, section)


def _disclosure(figure: Figure, section: Section) -> None:
    figure.set_size_inches(13, 4.6)
    for axis, (measure, title, label) in zip(figure.subplots(1, 3), DISCLOSED, strict=True):
        _panel(axis, section, measure, title, label)
        _words(axis, section, measure)
    _level(axis, section, REAL[REID.key], "chance")


def _cost(figure: Figure, section: Section) -> None:
    figure.set_size_inches(13, 8)
    for axis, (measure, title, label) in zip(figure.subplots(2, 2).flat, COST, strict=True):
        _panel(axis, section, measure, title, label)
        if measure.digits is None:
            axis.yaxis.set_major_formatter(EngFormatter(unit=measure.unit))


def _leakage(figure: Figure, section: Section) -> None:
    shown = leaks(section)
    height = math.ceil(len(shown) / ACROSS)
    figure.set_size_inches(15, 3.4 * height)
    axes = figure.subplots(height, ACROSS, squeeze=False).flat
    for axis, leak in itertools.zip_longest(axes, shown):
        if leak is None:
            axis.set_visible(False)
            continue
        # Before the curves, so that the axis has a place for it.
        _level(axis, section, leak.guess, "no information")
        _panel(axis, section, leak.measure, leak.measure.title, leak.label)
        if leak.label == AUC:
            # The whole range, or noise around a half would look like a finding.
            axis.set_ylim(min(0.4, axis.get_ylim()[0]), 1.02)


def _panel(axis: Any, section: Section, measure: Measure, title: str, label: str) -> None:
    """A measure's mean against the cut, with its spread as a band; a level for what has no cut."""
    _curves(axis, section, lambda row: _finite(row, measure))
    # A client that does nothing takes milliseconds, which would be most of a logarithmic axis.
    if measure is not SECONDS:
        _scale(axis)
    _dress(axis, section, label, title)


def _dress(axis: Any, section: Section, label: str, title: str) -> None:
    """Name an axis and its panel; there is no axis of cuts where nothing has one."""
    axis.set(ylabel=label, title=title)
    axis.grid(alpha=0.25)
    if section.curves:
        axis.set(xlabel=CUT, xlim=(-0.04, 1.04))
    else:
        axis.set_xticks([])


def _curves(axis: Any, section: Section, value: Callable[[Row], tuple[float, float] | None]) -> None:
    """Curves for what has a cut, levels for the rest; later curves are thinner, so that none hides another.

    Where nothing has a cut, levels are bars.
    """
    for index, (name, rows) in enumerate(section.curves.items()):
        points = [(row.cut, *mean_and_spread) for row in rows if (mean_and_spread := value(row)) is not None]
        if not points:
            continue
        cuts, means, spreads = zip(*points, strict=True)
        bands = [_band(mean, spread) for mean, spread in zip(means, spreads, strict=True)]
        size = max(1.0, 3.2 - 0.6 * index)
        style = {"color": f"C{index}", "marker": MARKERS[index % len(MARKERS)]}
        axis.plot(cuts, means, label=name, linewidth=size, markersize=3 + 2 * size, **style)
        axis.fill_between(cuts, *zip(*bands, strict=True), color=f"C{index}", alpha=0.15, linewidth=0)
    for index, (name, row) in enumerate(section.levels.items(), len(section.curves)):
        if (mean_and_spread := value(row)) is None:
            continue
        mean, spread = mean_and_spread
        if section.curves:
            axis.axhline(mean, color=f"C{index}", linestyle=DASHES[index % len(DASHES)], label=name)
            axis.axhspan(*_band(mean, spread), color=f"C{index}", alpha=0.12, linewidth=0)
        else:
            axis.bar(index, mean, yerr=spread or None, color=f"C{index}", label=name, width=0.7)


def _band(mean: float, spread: float) -> tuple[float, float]:
    """Mean -+ spread; not so far down that a logarithmic axis is nothing but the band."""
    return max(mean - spread, mean / 10) if mean > 0 else mean - spread, mean + spread


def _finite(row: Row, measure: Measure) -> tuple[float, float] | None:
    estimate = row.estimate(measure)
    if estimate is None or not math.isfinite(estimate.mean):
        return None
    return estimate.mean, estimate.spread or 0.0


def _clients(axis: Any, section: Section) -> None:
    """Each client's Fréchet distance with the first seed, thin, and their mean."""
    seed = min(run.config.run.seed for run in section.runs)
    for index, rows in enumerate(section.curves.values()):
        lines: dict[int, list[tuple[float, float]]] = {}
        for row in rows:
            for client, fd in _client_fds(row, seed).items():
                lines.setdefault(client, []).append((row.cut or 0.0, fd))
        for points in lines.values():
            axis.plot(*zip(*points, strict=True), color=f"C{index}", linewidth=0.7, alpha=0.4)

    def mean(row: Row) -> tuple[float, float] | None:
        client_fds = _client_fds(row, seed)
        return (statistics.fmean(client_fds.values()), 0.0) if client_fds else None

    _curves(axis, section, mean)
    _scale(axis)
    title = f"Each client (thin) and their mean, seed {seed}" if section.curves else f"Mean over clients, seed {seed}"
    _dress(axis, section, "Fréchet distance (lower is better)", title)


def _client_fds(row: Row, seed: int) -> dict[int, float]:
    runs = [run for run in row.runs if run.config.run.seed == seed]
    return {c["client"]: c["fd"] for run in runs for c in run.clients if c.get("fd") is not None}


def _level(axis: Any, section: Section, read: Callable[[Run], float | None], label: str) -> None:
    """A black line at the mean over the runs of what has no cut."""
    values = [value for run in section.runs if (value := read(run)) is not None]
    if values:
        axis.axhline(statistics.fmean(values), color="black", linestyle=(0, (4, 4)), linewidth=1, label=label)


def _words(axis: Any, section: Section, measure: Measure) -> None:
    """What cannot be drawn: the infinite signal of clean images, and where nothing was uploaded."""
    rows = [row for rows in section.curves.values() for row in rows if row.released and _finite(row, measure) is None]
    if rows:
        axis.margins(y=0.2)
    for cut, word in sorted({(row.cut or 0.0, row.released) for row in rows}):
        left, top = cut < 0.5, word == "clean images"
        axis.text(
            0.02 if left else 0.98,
            0.97 if top else 0.03,
            "clean images:\nall of it" if top else "nothing\nuploaded",
            transform=axis.transAxes,
            ha="left" if left else "right",
            va="top" if top else "bottom",
        )


def _scale(axis: Any) -> None:
    """A logarithmic axis where values are far apart, which is linear around 0 where some are 0."""
    values = [float(y) for line in axis.lines for y in line.get_ydata()]
    positive = [value for value in values if value > 0]
    if positive and min(values) >= 0 and max(positive) / min(positive) > WIDE:
        if len(positive) == len(values):
            axis.set_yscale("log")
        else:
            axis.set_yscale("symlog", linthresh=min(positive))


def _legend(figure: Figure) -> None:
    """One legend for all panels, below them."""
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    # Names of many settings are long, and what is wider than the figure is cut off.
    labels = [textwrap.fill(label, int(CHARACTERS_PER_INCH * figure.get_figwidth())) for label in handles]
    for columns in range(min(4, len(handles)), 0, -1):
        legend = figure.legend(handles.values(), labels, loc="outside lower center", ncols=columns, frameon=False)
        extent = legend.get_window_extent()
        if columns == 1 or extent.width <= figure.bbox.width:
            # Panels keep their height, whose labels would be cut off.
            figure.set_figheight(figure.get_figheight() + max(0.0, extent.height / figure.dpi - LEGEND_INCHES))
            break
        legend.remove()
