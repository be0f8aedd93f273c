"""Runs as rows: those that differ in nothing but the seed are one row, with mean and spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from collafuse_flwr.config.config import DEFAULTS
from collafuse_flwr.config.strategies import ENDS, strategy_spec
from simulations.report.load_runs import Run
from simulations.report.metrics import Measure
from simulations.sweep.grid import hashable

#: Settings that rows and sections are made of, and variants are not.
ELSEWHERE = ("seed", "cut_ratio", "cut.client_ratios", "strategy", "dataset", "dataset_path")
#: Settings, or their beginnings, that change nothing for a client that trains alone.
NOT_ALONE = (
    *(
        "upload.",
        "server.",
        "public.",
        "client.init_from",
        "client.start_round",
        "client.range",
        "client.update_budget",
    ),
    *("sampling.handover", "sampling.handover_ratio", "sampling.server_steps"),
)


@dataclass(frozen=True)
class Estimate:
    """The mean over seeds, and the sample standard deviation where there are two seeds or more."""

    mean: float
    spread: float | None
    count: int


@dataclass(frozen=True, eq=False)
class Row:
    """Runs of one variant at one cut, by seed; `cut` is None where there is none to draw it against."""

    variant: str
    cut: float | None
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """The variant and its cut."""
        if self.cut is None:
            return self.variant
        ends = {cut: f" ({name})" for name, cut in ENDS.items()}
        end = ends.get(self.cut, "") if self.strategy == "collafuse" else ""
        return f"{self.variant}, c = {self.cut:g}{end}"

    @property
    def strategy(self) -> str:
        """The strategy in its canonical form."""
        return str(self.runs[0].settings["strategy"])

    @property
    def released(self) -> str:
        """As `Run.released`."""
        return self.runs[0].released

    def estimate(self, measure: Measure) -> Estimate | None:
        """Mean and spread of a measure over the seeds; None where no run has it."""
        values = [value for run in self.runs if (value := measure.read(run)) is not None]
        if not values:
            return None
        several = len(values) > 1 and all(math.isfinite(value) for value in values)
        return Estimate(statistics.fmean(values), statistics.stdev(values) if several else None, len(values))


@dataclass(frozen=True, eq=False)
class Section:
    """All rows on one data set; `common` are the settings of all its runs that are not default."""

    dataset: str
    rows: tuple[Row, ...]
    common: dict[str, Any]

    @cached_property
    def curves(self) -> dict[str, list[Row]]:
        """The variants that have a cut, with their rows by cut."""
        names = dict.fromkeys(row.variant for row in self.rows if row.cut is not None)
        return {name: [row for row in self.rows if row.variant == name and row.cut is not None] for name in names}

    @cached_property
    def levels(self) -> dict[str, Row]:
        """What has no cut to be drawn against, by label."""
        return {row.label: row for row in self.rows if row.cut is None}

    @cached_property
    def runs(self) -> list[Run]:
        """Every run, once."""
        return list({run.folder: run for row in self.rows for run in row.runs}.values())

    def baseline(self, row: Row, strategy: str) -> Row | None:
        """The row of `local`, `centralized` or another strategy whose other settings are those of a row."""
        wanted = {"strategy": "collafuse", "cut_ratio": ENDS[strategy]} if strategy in ENDS else {"strategy": strategy}
        own = _variant_settings(row.runs[0])
        if strategy == "local":
            own = {name: value for name, value in own.items() if not name.startswith(NOT_ALONE)}
        for other in self.rows:
            settings = other.runs[0].settings
            if wanted.items() <= settings.items() and _agree(own, _variant_settings(other.runs[0])):
                return other
        return None


def sections(runs: Sequence[Run]) -> list[Section]:
    """The runs by data set, each as rows."""
    by_data: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        by_data.setdefault((run.config.data.name, " ".join(run.config.data.dataset_path)), []).append(run)
    return [_section(" ".join(part for part in name if part), own) for name, own in by_data.items()]


def _section(dataset: str, runs: list[Run]) -> Section:
    differing = _differing(runs)
    shared = {name: value for name, value in runs[0].settings.items() if name not in (*ELSEWHERE, *differing)}
    common = {name: value for name, value in shared.items() if value != hashable(DEFAULTS[name])}
    keys = {id(run): _key(run, differing) for run in runs}
    # At c = 1 nothing is uploaded: one run ends the curves of all ways to upload.
    whole = [key for run in runs if not _is_local(run) for key in [keys[id(run)]] if key[0] == "collafuse"]
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        own = keys[id(run)]
        hosts = [k for k in dict.fromkeys(whole) if _agree(dict(own[2]), dict(k[2])) and not k[1]]
        for strategy, cuts, settings in hosts if _is_local(run) and hosts else [own]:
            groups.setdefault((strategy, cuts, settings, run.settings.get("cut_ratio")), []).append(run)
    select_cuts: dict[tuple[Any, ...], set[Any]] = {}
    for *variant, cut in groups:
        select_cuts.setdefault(tuple(variant), set()).add(cut)
    rows = []
    for (strategy, cuts, settings, cut), own_runs in groups.items():
        end = _end(strategy, select_cuts[strategy, cuts, settings])
        by_seed = tuple(sorted(own_runs, key=lambda run: run.config.run.seed))
        rows.append(Row(_name(end or strategy, cuts, settings), None if end else cut, by_seed))
    return Section(dataset, tuple(sorted(rows, key=_order)), common)


def _differing(runs: list[Run]) -> list[str]:
    """The settings that have several values among the runs to which they matter."""
    values: dict[str, set[Any]] = {}
    for run in runs:
        for name, value in run.settings.items():
            values.setdefault(name, set()).add(value)
    return [name for name, different in values.items() if name not in ELSEWHERE and len(different) > 1]


def _key(run: Run, differing: list[str]) -> tuple[str, tuple[float, ...], tuple[tuple[str, Any], ...]]:
    settings = run.settings
    own = tuple((name, settings[name]) for name in differing if name in settings)
    return settings["strategy"], settings.get("cut.client_ratios", ()), own


def _is_local(run: Run) -> bool:
    return bool(run.settings["strategy"] == "collafuse" and run.settings["cut_ratio"] == 1)


def _variant_settings(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.settings.items() if name not in ELSEWHERE}


def _agree(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether settings that both have are the same."""
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _end(strategy: str, cuts: set[float | None]) -> str | None:
    """What a variant of CollaFuse is called that was only run at one of its ends."""
    return next((end for end, cut in ENDS.items() if strategy == "collafuse" and cuts == {cut}), None)


def _name(strategy: str, cuts: tuple[float, ...], settings: tuple[tuple[str, Any], ...]) -> str:
    """The strategy, and those settings that differ between the runs and are not default."""
    differing = [f"{name}={value}" for name, value in settings if value != hashable(DEFAULTS[name])]
    return " ".join([strategy, *([f"cuts {','.join(map(str, cuts))}"] if cuts else []), *differing])


def _order(row: Row) -> tuple[Any, ...]:
    return strategy_spec(row.strategy).averages_denoisers, row.cut is None, row.variant, row.cut or 0.0
