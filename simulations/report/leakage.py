"""Results of attacks on the runs against the cut, beside those without information."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

from simulations.attack.registry import attack_specs
from simulations.attack.spec import Column
from simulations.report.aggregate import Section
from simulations.report.load_runs import Run
from simulations.report.metrics import Measure
from simulations.report.tables import Table, TableCell, tabulate


@dataclass(frozen=True)
class Leak:
    """A figure of the leakage card; `chance` is where its value without information is, if it has one."""

    measure: Measure
    label: str
    chance: str

    def guess(self, run: Run) -> float | None:
        """The value without information, as the mean of the clients to which the attack applied."""
        rows = [row for row in run.attacks if self.chance and row.get(self.measure.key) is not None]
        values = [row[self.chance] for row in rows if row.get(self.chance) is not None]
        return statistics.fmean(values) if values else None


def _leak(column: Column) -> Leak:
    measure = Measure(column.key, column.title, _largest(column.key), "", digits=column.digits)
    return Leak(measure, column.axis, column.chance)


def _largest(key: str) -> Callable[[Run], float | None]:
    """Of the client about which the attack learns the most."""
    return lambda run: max((row[key] for row in run.attacks if row.get(key) is not None), default=None)


def leaks(section: Section) -> list[Leak]:
    """The figures that any run of a section has."""
    every = [column for spec in attack_specs() for column in spec.columns]
    every += [column for run in section.runs for column in run.attack_columns]
    columns = {column.key: column for column in every if column.title}
    return [
        leak for leak in map(_leak, columns.values()) if any(leak.measure.read(run) is not None for run in section.runs)
    ]


def leakage(section: Section) -> Table | None:
    """Rows by variant and cut of the runs that were attacked, and a last one without information; None if none was."""
    attacked = tuple(row for row in section.rows if any(run.attacks for run in row.runs))
    if not attacked:
        return None
    shown = leaks(section)
    table = tabulate(replace(section, rows=attacked), [leak.measure for leak in shown])
    last = [TableCell("no information"), TableCell("")]
    for leak in shown:
        guesses = [value for run in section.runs if (value := leak.guess(run)) is not None]
        last.append(TableCell(leak.measure.text(statistics.fmean(guesses)) if guesses else "-"))
    return Table(table.header, [*table.rows, last])
