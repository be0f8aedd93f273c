"""The example of a metric: measured, shown and compared; and mistakes in one line before the run."""

from __future__ import annotations

import csv
import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from collafuse_flwr.evaluation.metric import EvaluationMetric
from examples.metric.contrast import contrast_gap
from simulations.report.page import write_report
from tests.commands import refused
from tests.examples.test_plugins_run import command

PATH = "examples.metric.contrast:METRIC"
HERE = "tests.examples.test_metric_plugin"


def test_it_is_measured_shown_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert command(folder, model="nano", **{"evaluation.metrics": [PATH]}) == 0
    assert "contrast" in capsys.readouterr().out
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"] == [
        {"key": "contrast_gap", "heading": "contrast", "better": "lower", "digits": 3},
    ]
    values = [row["contrast_gap"] for row in (summary["pooled"], *summary["clients"])]
    assert all(value > 0 for value in values)
    assert len(set(values)) == 3
    assert "contrast ↓" in write_report([folder], tmp_path / "report").read_text()
    (row,) = csv.DictReader((tmp_path / "report" / "table.csv").read_text().splitlines())
    assert float(row["contrast_gap"]) == values[0]


def test_an_installed_package_brings_its_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = {"collafuse_flwr.metrics": [EntryPoint("contrast", PATH, "collafuse_flwr.metrics")]}
    monkeypatch.setattr("collafuse_flwr.core.plugins.entry_points", lambda group: offered.get(group, []))
    assert command(tmp_path / "run", model="nano") == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["pooled"]["contrast_gap"] > 0


def text(*_: Tensor) -> Any:
    return "good"


NOT_ONE = contrast_gap
NO_NUMBER = EvaluationMetric("text", "text", text, "lower")
TAKEN = EvaluationMetric("fd", "FD", contrast_gap, "lower")
NOT_CALLABLE = EvaluationMetric("three", "3", 3, "lower")  # type: ignore[arg-type]
NEITHER = EvaluationMetric("neither", "", contrast_gap, "")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no.module:METRIC", "= 'no.module:METRIC' is not allowed: package.module:name of something"),
        (f"{HERE}:NOT_ONE", "an EvaluationMetric, not function"),
        (f"{HERE}:NO_NUMBER", "= 'text' is not allowed: a metric whose `measure` returns a number or None, not str"),
        (f"{HERE}:TAKEN", "= 'fd' is not allowed: a metric with a key that no other has"),
        (f"{HERE}:NOT_CALLABLE", "= 'three' is not allowed: a metric whose `measure` is callable"),
        (f"{HERE}:NEITHER", "= 'neither' is not allowed: a metric that is better lower or higher, not ''"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, message: str) -> None:
    assert command(tmp_path / "run", model="nano", **{"evaluation.metrics": [path]}) == 2
    line = refused(capsys)
    assert line.startswith("error: `evaluation.metrics` = ")
    assert message in line
    assert not (tmp_path / "run").exists()
