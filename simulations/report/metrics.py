"""What is compared: every number of a run, where it is in the summary, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from collafuse_flwr.runs.metrics import METRICS, Metric, metrics_of
from simulations.report.load_runs import Run

#: Factors of the units' prefixes, largest first.
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
#: What each direction of improvement is worth.
SIGN = {"lower": -1, "higher": 1}


@dataclass(frozen=True)
class Measure:
    """One number of a run; `digits` after the point, or, where it is None, three digits and a prefix of the unit."""

    key: str
    title: str
    read: Callable[[Run], float | None]
    better: str = "lower"
    unit: str = ""
    digits: int | None = None

    def prefix(self, values: Sequence[float]) -> tuple[float, str]:
        """The factor and the letter that keep the largest of some values below 1000."""
        largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
        if self.digits is None:
            return next(((factor, letter) for factor, letter in PREFIXES if largest >= factor), (1.0, ""))
        return 1.0, ""

    def text(self, value: float, factor: float = 1.0) -> str:
        """A value in a column whose unit has a prefix."""
        if self.digits is not None:
            return f"{value:.{self.digits}f}"
        # Three digits, but never an exponent.
        scaled = float(f"{value / factor:.3g}")
        return f"{scaled:.{max(0, 2 - math.floor(math.log10(abs(scaled))))}f}" if abs(scaled) >= 1e-6 else "0"


def _pooled(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.summary["pooled"].get(name)


def _per_client(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.summary["pooled"][name] / max(1, len(run.clients))


def _worst(run: Run) -> float | None:
    return max((client["fd"] for client in run.clients if client.get("fd") is not None), default=None)


def _disclosed(name: str, clean: float, nothing: float | None) -> Callable[[Run], float | None]:
    """JSON has no infinity, so the values for clean images and for nothing are here."""
    by_kind = {"weights": None, "activations": None, "clean images": clean, "nothing": nothing}
    return lambda run: by_kind[run.released] if run.released else run.summary["pooled"].get(name)


def _compared(metric: Metric) -> Measure:
    """A column of reports; what is not a number of the summary's `pooled` is read as said here."""
    reads = {
        "worst_fd": _worst,
        "snr_db": _disclosed("snr_db", math.inf, -math.inf),
        "bits": _disclosed("bits", math.inf, 0.0),
        "reid": _disclosed("reid", 1.0, None),
        "server_flops": lambda run: run.summary["server"]["flops"],
    }
    reads |= {key: _per_client(key) for key in ("bytes_up", "bytes_down", "client_flops", "client_seconds")}
    read = reads.get(metric.key, _pooled(metric.key))
    return Measure(metric.key, metric.heading, read, metric.better, metric.unit, metric.digits)


def columns(runs: Sequence[Run]) -> tuple[Measure, ...]:
    """The columns of the table of some runs, others' metrics among them."""
    metrics = {metric.key: metric for run in runs for metric in metrics_of(run.summary)}
    order = {key: place for run in runs for place, key in enumerate(m.key for m in metrics_of(run.summary))}
    shown = sorted((metric for metric in metrics.values() if metric.compared), key=lambda metric: order[metric.key])
    return tuple(map(_compared, shown))


_COLUMNS = {metric.key: _compared(metric) for metric in METRICS}
FD, TSTR, SNR, BITS, REID, UP, DOWN, FLOPS, SECONDS = (
    _COLUMNS[key]
    for key in (
        *("fd", "tstr", "snr_db", "bits", "reid"),
        *("bytes_up", "bytes_down", "client_flops", "client_seconds"),
    )
)
#: Keys of what is shown where a run has it: what other work reports.
PUBLISHED = ("fid", "kid", "clip_fid")
#: Keys of those that a word stands for where nothing, or something else than noised images, left the clients.
DISCLOSURE = ("snr_db", "bits", "reid")

#: What shows that the comparison is fair: optimiser work in images.
BUDGET = (
    Measure("client_updates", "clients", _pooled("image_updates"), ""),
    Measure("server_updates", "server", lambda run: run.summary["server"]["image_updates"], ""),
    Measure(
        "updates",
        "together",
        lambda run: run.summary["pooled"]["image_updates"] + run.summary["server"]["image_updates"],
        "",
    ),
)

#: The figures of real images, where a summary has them.
REAL = {"fd": _pooled("fd_real"), "tstr": _pooled("tstr_real"), "reid": _pooled("reid_chance")}
