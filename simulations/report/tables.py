"""The numbers of a report: the table as it is read, and everything as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collafuse_flwr.core.atomic_io import atomic_write
from simulations.report.aggregate import Estimate, Row, Section
from simulations.report.load_runs import Run
from simulations.report.metrics import BUDGET, DISCLOSURE, PUBLISHED, SIGN, Measure, columns

ARROWS = {"lower": "↓", "higher": "↑"}


@dataclass(frozen=True)
class TableCell:
    """What is written in a cell of the table, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table ready to be shown."""

    header: list[str]
    rows: list[list[TableCell]]


def comparison(section: Section) -> Table:
    """Rows by variant and cut, with mean and spread over seeds."""
    return tabulate(section, _shown(section))


def clients(run: Run) -> Table:
    """A run's clients, with what was measured of each."""
    header, filled = ["client", "images"], []
    for measure in columns([run]):
        values = [row.get(measure.key) for row in run.clients]
        if all(value is None for value in values):
            continue
        factor, prefix = measure.prefix([value for value in values if value is not None])
        title = measure.title.removesuffix(" per client")
        header.append(_titled(title, measure, prefix))
        finite = [value if value is not None and math.isfinite(value) else None for value in values]
        filled.append([TableCell("-" if value is None else measure.text(value, factor)) for value in finite])
    first = [[TableCell(str(row["client"])), TableCell(str(row["num_images"]))] for row in run.clients]
    return Table(header, [own + list(cells) for own, cells in zip(first, zip(*filled, strict=True), strict=True)])


def budget(section: Section) -> Table:
    """The image updates of every row, which show whether the comparison is fair."""
    return tabulate(section, BUDGET)


def _shown(section: Section) -> list[Measure]:
    """The columns, without those of published networks that no run has."""
    every = columns(section.runs)
    return [m for m in every if m.key not in PUBLISHED or any(row.estimate(m) for row in section.rows)]


def tabulate(section: Section, measures: Sequence[Measure]) -> Table:
    """The mean and spread of some measures, in rows by variant and cut."""
    header, filled = ["", "seeds"], []
    for measure in measures:
        estimates = [row.estimate(measure) for row in section.rows]
        factor, prefix = measure.prefix([estimate.mean for estimate in estimates if estimate is not None])
        header.append(_titled(measure.title, measure, prefix))
        best = _best(measure, estimates)
        filled.append(
            [
                TableCell(_text(row, measure, estimate, factor), estimate is not None and estimate.mean == best)
                for row, estimate in zip(section.rows, estimates, strict=True)
            ]
        )
    rows = [
        [TableCell(row.label), TableCell(str(len(row.runs))), *cells]
        for row, *cells in zip(section.rows, *filled, strict=True)
    ]
    return Table(header, rows)


def _titled(title: str, measure: Measure, prefix: str) -> str:
    unit = f" [{prefix}{measure.unit}]" if measure.unit or prefix else ""
    return f"{title}{unit} {ARROWS.get(measure.better, '')}".strip()


def _best(measure: Measure, estimates: Sequence[Estimate | None]) -> float | None:
    """The best mean of a column; there is none where all are the same."""
    means = {estimate.mean for estimate in estimates if estimate is not None}
    if measure.better not in SIGN or len(means) < 2:
        return None
    return max(means, key=lambda mean: SIGN[measure.better] * mean)


def _text(row: Row, measure: Measure, estimate: Estimate | None, factor: float) -> str:
    if measure.key in DISCLOSURE and row.released and (estimate is None or measure.key != "reid"):
        return row.released
    if estimate is None or not math.isfinite(estimate.mean):
        return "-"
    mean = measure.text(estimate.mean, factor)
    scale = factor if measure.digits is None else 1.0
    # To the digits of the mean; where that leaves nothing, the seeds agree.
    spread = f"{(estimate.spread or 0.0) / scale:.{len(mean.partition('.')[2])}f}"
    return f"{mean} ± {spread}" if float(spread) else mean


def write_csv(sections: Sequence[Section], folder: Path) -> list[Path]:
    """Write runs.csv (a row per run), clients.csv (per run and client) and table.csv (mean, spread and count).

    Where runs were attacked, attacks.csv has a row per run and client as well.
    """
    runs, clients, table, attacks = [], [], [], []
    for section in sections:
        for row in section.rows:
            name = {"dataset": section.dataset, "variant": row.variant, "cut": row.cut}
            summed = {"released": row.released, "seeds": len(row.runs)}
            for measure in (*_shown(section), *BUDGET):
                estimate = row.estimate(measure)
                summed[measure.key] = estimate.mean if estimate else None
                summed[f"{measure.key}_std"] = estimate.spread if estimate else None
            table.append(name | summed)
            for run in row.runs:
                one = name | {"seed": run.config.run.seed, "folder": str(run.folder)}
                server = {f"server_{key}": value for key, value in run.summary["server"].items()}
                lost = {key: run.summary.get(key) for key in ("failed", "rejected")}
                runs.append(one | {"released": run.released} | run.summary["pooled"] | server | lost)
                clients += [one | client for client in run.clients]
                attacks += [one | attacked for attacked in run.attacks]
    files = {"table": table, "runs": runs, "clients": clients} | ({"attacks": attacks} if attacks else {})
    for stem, rows in files.items():
        _write(folder / f"{stem}.csv", rows)
    return [folder / f"{stem}.csv" for stem in files]


def write_markdown(sections: Sequence[Section], attacked: Sequence[Table | None], folder: Path) -> Path:
    """Write table.md: the tables of each data set as text that can go into a document, the best in bold."""
    lines = []
    for section, attacks in zip(sections, attacked, strict=True):
        lines += [f"### {section.dataset}", "", *_lines(comparison(section))]
        lines += [] if attacks is None else ["#### Attacks", "", *_lines(attacks)]
    path = folder / "table.md"
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
    return path


def _lines(table: Table) -> list[str]:
    rows = [[f"**{cell.text}**" if cell.best else cell.text for cell in row] for row in table.rows]
    return [_line(table.header), "|---" * len(table.header) + "|", *map(_line, rows), ""]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    columns = list(rows)
    names = list(dict.fromkeys(name for row in columns for name in row))
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(columns)
