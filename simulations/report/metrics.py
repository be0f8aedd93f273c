"""What is compared: every number of a run, where it is in the summary, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    known = {"weights": None, "activations": None, "clean images": clean, "nothing": nothing}
    return lambda run: known[run.released] if run.released else run.summary["pooled"].get(name)


FD = Measure("fd", "FD", _pooled("fd"), digits=2)
TSTR = Measure("tstr", "TSTR", _pooled("tstr"), "higher", digits=3)
#: What other work reports; shown where the runs were given the weights of published networks.
PUBLISHED = (
    Measure("fid", "FID", _pooled("fid"), digits=2),
    Measure("kid", "KID", _pooled("kid"), digits=4),
    Measure("clip_fid", "CLIP-FID", _pooled("clip_fid"), digits=2),
)
SNR = Measure("snr_db", "SNR", _disclosed("snr_db", math.inf, -math.inf), unit="dB", digits=1)
BITS = Measure("bits", "bits", _disclosed("bits", math.inf, 0.0), digits=1)
REID = Measure("reid", "re-identified", _disclosed("reid", 1.0, None), digits=3)
UP = Measure("bytes_up", "up per client", _per_client("bytes_up"), unit="B")
DOWN = Measure("bytes_down", "down per client", _per_client("bytes_down"), unit="B")
FLOPS = Measure("client_flops", "training per client", _per_client("client_flops"), unit="FLOP")
SECONDS = Measure("client_seconds", "time per client", _per_client("client_seconds"), unit="s", digits=1)

#: The columns of the table. Disclosure is that of the client that discloses the most.
COLUMNS = (
    FD,
    TSTR,
    *PUBLISHED,
    Measure("worst_fd", "worst client's FD", _worst, digits=1),
    SNR,
    BITS,
    REID,
    UP,
    DOWN,
    FLOPS,
    SECONDS,
    Measure("server_flops", "server's training", lambda run: run.summary["server"]["flops"], unit="FLOP"),
)
#: Those that a word stands for where nothing, or something else than noised images, left the clients.
DISCLOSURE = (SNR, BITS, REID)

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
