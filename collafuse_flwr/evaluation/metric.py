"""Metrics that others bring: `evaluation.metrics=[package.module:METRIC]`, or entry points of installed packages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.plugins import installed, load_instance
from collafuse_flwr.evaluation.settings import EvaluationConfig

#: Entry points of installed packages.
GROUP = "collafuse_flwr.metrics"
SETTING = "evaluation.metrics"


@dataclass(frozen=True)
class EvaluationMetric:
    """A number about generated images, of a client, of a domain and of all.

    Attributes:
        key: its name in summary.json.
        heading: of its column.
        measure: called with real images and their labels, and with generated images and theirs: float32 in [-1, 1] of
            shape (n, channels, size, size), and int64 (n,), -1 where a label is unknown. It gives a number, or None
            where it cannot tell. The real images are those held out.
        better: which values are.
        digits: after the point.
    """

    key: str
    heading: str
    measure: Callable[[Tensor, Tensor, Tensor, Tensor], float | None]
    better: Literal["lower", "higher"]
    digits: int = 2

    def of(self, real: tuple[Tensor, Tensor], generated: tuple[Tensor, Tensor]) -> float | None:
        """The number.

        Raises:
            SettingError: it is none.
        """
        value: object = self.measure(*real, *generated)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            allowed = f"a metric whose `measure` returns a number or None, not {type(value).__name__}"
            raise SettingError(SETTING, self.key, allowed)
        return float(value)


def load_metrics(config: EvaluationConfig, taken: frozenset[str]) -> tuple[EvaluationMetric, ...]:
    """The metrics of installed packages, and those that the settings name.

    Raises:
        SettingError: one cannot be imported, is none, or has a key that is `taken` or another's.
    """
    every = installed(GROUP, EvaluationMetric)
    every += [load_instance(SETTING, path, EvaluationMetric) for path in config.metrics]
    metrics = {metric.key: metric for metric in every}
    for metric in every:
        if not callable(metric.measure):
            raise SettingError(SETTING, metric.key, "a metric whose `measure` is callable")
        if metric.better not in {"lower", "higher"}:
            raise SettingError(SETTING, metric.key, f"a metric that is better lower or higher, not {metric.better!r}")
        if metric.key in taken or metrics[metric.key] != metric:
            raise SettingError(SETTING, metric.key, "a metric with a key that no other has")
    return tuple(metrics.values())
