"""Every number that is shown of a run, once: its key, headings, order and format on the terminal and in reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from collafuse_flwr.config.config import Config
from collafuse_flwr.evaluation.metric import EvaluationMetric, load_metrics

#: Tables on the terminal: of runs of diffusion models and of GANs, of domains, of published networks, and of others'
#: metrics.
TerminalTable = Literal["diffusion", "gan", "domains", "published", "further"]


@dataclass(frozen=True)
class TerminalColumn:
    """How a number is shown in some tables on the terminal: divided by `unit`, so many digits after the point."""

    heading: str
    digits: int
    unit: float = 1
    tables: tuple[TerminalTable, ...] = ("diffusion", "gan")


@dataclass(frozen=True)
class Metric:
    """A number of a run.

    Attributes:
        key: in summary.json and CSV.
        heading: of its column in reports.
        better: which values are; empty: neither.
        unit: in reports, which choose a prefix where `digits` is None.
        digits: after the point, in reports; None: three digits.
        terminal: its columns there.
        compared: whether reports have a column of it.
    """

    key: str
    heading: str
    better: Literal["lower", "higher", ""] = "lower"
    unit: str = ""
    digits: int | None = None
    terminal: tuple[TerminalColumn, ...] = ()
    compared: bool = True


def _percent(key: str, heading: str, better: Literal["lower", "higher"] = "higher") -> Metric:
    """What classifiers of a domain's samples do on its held-out images."""
    return Metric(key, heading, better, "%", 2, (TerminalColumn(heading, 2, 0.01, ("domains",)),), compared=False)


def _published(key: str, heading: str, digits: int) -> Metric:
    """What other work reports; shown where a run has it."""
    return Metric(key, heading, digits=digits, terminal=(TerminalColumn(heading, digits, tables=("published",)),))


_DIFFUSION: tuple[TerminalTable, ...] = ("diffusion",)
_GAN: tuple[TerminalTable, ...] = ("gan",)
#: In the order in which columns are shown.
METRICS = (
    _percent("accuracy", "accuracy"),
    _percent("accuracy_worst", "worst"),
    _percent("precision", "precision"),
    _percent("recall", "recall"),
    _percent("f1", "F1"),
    _percent("fpr", "FPR", "lower"),
    Metric("fd", "FD", digits=2, terminal=(TerminalColumn("FD", 2, tables=("diffusion", "gan", "domains")),)),
    Metric("tstr", "TSTR", "higher", digits=3, terminal=(TerminalColumn("TSTR", 3),)),
    Metric(
        "score",
        "score",
        "higher",
        digits=2,
        terminal=(TerminalColumn("score", 2, tables=("gan", "domains")),),
        compared=False,
    ),
    _published("fid", "FID", 2),
    _published("kid", "KID", 4),
    _published("clip_fid", "CLIP-FID", 2),
    Metric("worst_fd", "worst client's FD", digits=1),
    Metric("snr_db", "SNR", unit="dB", digits=1, terminal=(TerminalColumn("SNR dB", 1, tables=_DIFFUSION),)),
    Metric("bits", "bits", digits=1, terminal=(TerminalColumn("bits", 1, tables=_DIFFUSION),)),
    Metric("reid", "re-identified", digits=3, terminal=(TerminalColumn("re-id", 3, tables=_DIFFUSION),)),
    Metric(
        "bytes_up",
        "up per client",
        unit="B",
        terminal=(TerminalColumn("up kB", 1, 1e3, _DIFFUSION), TerminalColumn("up MB", 1, 1e6, _GAN)),
    ),
    Metric("bytes_down", "down per client", unit="B", terminal=(TerminalColumn("down MB", 1, 1e6),)),
    Metric("client_flops", "training per client", unit="FLOP", terminal=(TerminalColumn("GFLOP", 0, 1e9),)),
    Metric("client_seconds", "time per client", unit="s", digits=1, terminal=(TerminalColumn("s", 1),)),
    Metric("server_flops", "server's training", unit="FLOP"),
)
#: Where other work's numbers end and others' metrics are shown.
_BEFORE = "worst_fd"


def further_metrics(config: Config) -> tuple[EvaluationMetric, ...]:
    """Others' metrics that a run is measured by.

    Raises:
        SettingError: one cannot be imported, is none, or has the key of another number.
    """
    return load_metrics(config.evaluation, frozenset(metric.key for metric in METRICS))


def describe(metrics: tuple[EvaluationMetric, ...]) -> list[dict[str, Any]]:
    """Others' metrics as summary.json has them: who shows a run need not have installed them."""
    return [{name: getattr(metric, name) for name in ("key", "heading", "better", "digits")} for metric in metrics]


def metrics_of(summary: dict[str, Any]) -> tuple[Metric, ...]:
    """Every number that may be shown of a run, others' metrics among them."""
    others = tuple(
        Metric(**own, terminal=(TerminalColumn(own["heading"], own["digits"], tables=("further",)),))
        for own in summary.get("metrics", ())
    )
    place = next(index for index, metric in enumerate(METRICS) if metric.key == _BEFORE)
    return METRICS[:place] + others + METRICS[place:]


def terminal_columns(summary: dict[str, Any], table: TerminalTable) -> dict[str, tuple[str, TerminalColumn]]:
    """The columns of a table on the terminal, by their heading, with the key of the number."""
    return {
        column.heading: (metric.key, column)
        for metric in metrics_of(summary)
        for column in metric.terminal
        if table in column.tables
    }
