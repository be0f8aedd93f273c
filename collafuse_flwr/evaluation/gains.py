"""What each client gained over training alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: With fewer clients an interval says nothing.
LEAST_RESAMPLED = 10
Interval = tuple[float, float]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class ClientGains:
    """Of clients with a Fréchet distance with the others and one alone: how many gained, and the typical ratio.

    Attributes:
        better: clients whose distance is lower than alone.
        clients: all of them.
        ratio: the median of distance with the others / distance alone, in [0, inf).
        share_interval: 95 % bootstrap interval of better / clients (percentiles, Efron 1979); None below 10 clients.
        ratio_interval: the same of `ratio`.
    """

    better: int
    clients: int
    ratio: float
    share_interval: Interval | None = None
    ratio_interval: Interval | None = None

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> ClientGains:
        """Of pairs (distance with the others, distance alone), one for each client.

        Raises:
            ValueError: there are none.
        """
        if not pairs:
            raise ValueError("`pairs` must hold at least one client")
        better = [own < alone for own, alone in pairs]
        ratios = [own / alone for own, alone in pairs if alone]
        ratio = float(np.median(ratios)) if ratios else 1.0
        if len(pairs) < LEAST_RESAMPLED or len(ratios) < LEAST_RESAMPLED:
            return cls(sum(better), len(pairs), ratio)
        return cls(sum(better), len(pairs), ratio, _interval(better, np.mean), _interval(ratios, np.median))

    def sentence(self, of: str = "") -> str:
        """The same in words; `of` says what the clients are from, as "3 seeds"."""
        share = f"{self.better} of {self.clients} clients have a lower FD than alone"
        if self.share_interval is None or self.ratio_interval is None:
            return f"{share} ({of})" if of else share
        low, high = self.share_interval
        notes = ", ".join(note for note in (of, f"{low:.0%} to {high:.0%} by bootstrap") if note)
        typical = f"the median client's is {self.ratio:.2f} times that"
        return f"{share} ({notes}); {typical}, {self.ratio_interval[0]:.2f} to {self.ratio_interval[1]:.2f}"

    def verdict(self) -> str:
        """Whether it paid, as far as the interval of the share says; nothing follows from fewer than 10 clients."""
        if self.share_interval is None:
            return f"from fewer than {LEAST_RESAMPLED} clients nothing follows for others"
        low, high = self.share_interval
        if low > 1 / 2:
            return "collaboration pays here for most clients"
        return "most clients do better alone here" if high < 1 / 2 else "most clients may as well be alone here"


def client_distances(clients: Sequence[Row], alone: Sequence[Row]) -> list[tuple[float, float]]:
    """The clients' Fréchet distances in a run and in that of clients alone, by rows of summaries that have both."""
    reference = {client["client"]: client.get("fd") for client in alone}
    both = ((client.get("fd"), reference.get(client["client"])) for client in clients)
    return [(own, its) for own, its in both if own is not None and its is not None]


def _interval(values: Sequence[float], statistic: Callable[..., Any]) -> Interval:
    """A 95 % interval of a statistic of the clients, by resampling them."""
    from scipy.stats import bootstrap  # noqa: PLC0415 - slow, and few runs are compared

    result = bootstrap((np.asarray(values, float),), statistic, method="percentile", rng=np.random.default_rng(0))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
