"""What the numbers say, in sentences: where splitting wins, and where it does not."""

from __future__ import annotations

from collafuse_flwr.core.text import number_of
from collafuse_flwr.evaluation.gains import ClientGains, client_distances
from simulations.report.aggregate import Row, Section
from simulations.report.load_runs import Run
from simulations.report.metrics import BUDGET, FD, FLOPS, UP, Measure

#: Image updates count as equal within this share: both sides train in whole batches.
EQUAL = 0.05


def statements(section: Section) -> list[str]:
    """A sentence for each row between the ends beside the baselines."""
    sentences = []
    for row in section.rows:
        inner = row.cut is None or 0 < row.cut < 1
        if inner and not row.released:
            parts = [part for part in (*_quality(section, row), *_cost(section, row)) if part]
            if parts:
                sentences.append(f"{row.label}: {'; '.join(parts)}.")
    return sentences


def warnings(section: Section) -> list[str]:
    """Means over different seeds are not the same comparison: partitions differ with the seed."""
    seeds = {row.label: {run.config.run.seed for run in row.runs} for row in section.rows}
    every = set[int]().union(*seeds.values())
    fewer = [label for label, own in seeds.items() if own != every]
    return [f"Beware: not all of the {len(every)} seeds are there of {'; '.join(fewer)}."] if fewer else []


def budget_statement(section: Section) -> str:
    """Which budget the strategies had in common, and whether the rows had as many image updates."""
    names = sorted({str(run.settings.get("train.match", "image_updates")) for run in section.runs})
    updates = [estimate.mean for row in section.rows if (estimate := row.estimate(BUDGET[-1])) is not None]
    sentence = f"Common to all strategies (train.match): {', '.join(names)}."
    if len(updates) < 2 or max(updates) == 0:
        return sentence
    low, high = min(updates), max(updates)
    if high - low <= EQUAL * high:
        return f"{sentence} Image updates of clients and server together are equal within {(high - low) / high:.1%}."
    return f"{sentence} Image updates of clients and server together are not equal: {low:.0f} to {high:.0f}."


def _quality(section: Section, row: Row) -> list[str]:
    local = section.baseline(row, "local")
    sentences = [_better_clients(row, local)] if local else []
    for strategy in ("centralized", "fedavg"):
        other = section.baseline(row, strategy)
        if other is not None:
            sentences.append(_against(row, other, strategy))
    return sentences


def _better_clients(row: Row, local: Row) -> str:
    """How many clients have a lower FD than alone, with the same seed, and what the typical client gained."""
    runs = _paired(row, local)
    pairs = [pair for run, alone in runs for pair in client_distances(run.clients, alone.clients)]
    return ClientGains.of(pairs).sentence(number_of(len(runs), "seed")) if pairs else ""


def _against(row: Row, other: Row, name: str) -> str:
    """The pooled FD beside that of a baseline, and for how many seeds it is lower."""
    own, its = row.estimate(FD), other.estimate(FD)
    if own is None or its is None:
        return ""
    pairs = [(a, b) for x, y in _paired(row, other) if (a := FD.read(x)) is not None and (b := FD.read(y)) is not None]
    lower = sum(a < b for a, b in pairs)
    return f"FD {own.mean:.2f} against {its.mean:.2f} of {name}, lower for {lower} of {number_of(len(pairs), 'seed')}"


def _cost(section: Section, row: Row) -> list[str]:
    other = section.baseline(row, "fedavg")
    if other is None:
        return []
    return [f"{_ratio(row, other, UP)} of fedavg's upload and {_ratio(row, other, FLOPS)} of its client training"]


def _ratio(row: Row, other: Row, measure: Measure) -> str:
    own, its = row.estimate(measure), other.estimate(measure)
    if own is None or its is None or its.mean == 0:
        return "an unknown share"
    ratio = own.mean / its.mean
    return f"{ratio:.2g} times" if ratio > 1 else f"{100 * ratio:.2g}%"


def _paired(row: Row, other: Row) -> list[tuple[Run, Run]]:
    """The runs of two rows with the same seed."""
    by_seed = {run.config.run.seed: run for run in other.runs}
    return [(run, by_seed[run.config.run.seed]) for run in row.runs if run.config.run.seed in by_seed]
