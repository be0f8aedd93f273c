"""Runs become rows: by variant and cut, with mean and spread over seeds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from collafuse_flwr.config.config import DEFAULTS
from simulations.report.aggregate import Section, sections
from simulations.report.metrics import BITS, FD, FLOPS, REID, SNR, UP
from tests.component.simulations.report.fakes import fake


def labels(section: Section) -> list[str]:
    return [row.label for row in section.rows]


def test_seeds_become_mean_and_spread(tmp_path: Path) -> None:
    (section,) = sections([fake(tmp_path, seed=seed, fd=fd) for seed, fd in enumerate((1.0, 2.0, 6.0))])
    (row,) = section.rows
    estimate = row.estimate(FD)
    assert estimate is not None
    assert (estimate.mean, estimate.count) == (3, 3)
    assert estimate.spread == pytest.approx(math.sqrt(7))
    (single,) = sections([fake(tmp_path / "one")])[0].rows
    alone = single.estimate(FD)
    assert alone is not None
    assert alone.spread is None


def test_costs_are_a_clients(tmp_path: Path) -> None:
    (section,) = sections([fake(tmp_path, cut_ratio=0.4)])
    flops, up = (section.rows[0].estimate(measure) for measure in (FLOPS, UP))
    assert flops is not None
    assert up is not None
    assert flops.mean == pytest.approx(0.4 * 9e11)
    assert up.mean == 16_000


def test_variants_are_named_by_what_differs(tmp_path: Path) -> None:
    runs = [
        fake(tmp_path, cut_ratio=cut, upload__noise=upload) for cut in (0.2, 0.4) for upload in ("fixed", "resampled")
    ]
    runs += [
        fake(tmp_path, "hybrid"),
        fake(tmp_path, "fedavg"),
        fake(tmp_path, cut__client_ratios=[0.1, 0.2, 0.3, 0.4]),
    ]
    (section,) = sections(runs)
    assert labels(section) == [
        "collafuse, c = 0.2",
        "collafuse, c = 0.4",
        "collafuse upload.noise=resampled, c = 0.2",
        "collafuse upload.noise=resampled, c = 0.4",
        "hybrid, c = 0.2",
        "collafuse cuts 0.1,0.2,0.3,0.4",
        "fedavg",
    ]
    assert list(section.curves) == ["collafuse", "collafuse upload.noise=resampled", "hybrid"]
    assert list(section.levels) == ["collafuse cuts 0.1,0.2,0.3,0.4", "fedavg"]
    assert section.common == {"num_supernodes": 4}


def test_what_is_uploaded_how_does_not_matter_where_nothing_is(tmp_path: Path) -> None:
    """One run at c = 1 ends the curves of all ways to upload, but not those of other settings."""
    runs = [fake(tmp_path, cut_ratio=0.2, upload__noise=upload) for upload in ("fixed", "resampled")]
    runs += [fake(tmp_path, cut_ratio=0.2, train__local_epochs=3.0), fake(tmp_path, "local")]
    (section,) = sections(runs)
    ends = {name: [row.cut for row in rows] for name, rows in section.curves.items()}
    assert ends == {
        "collafuse": [0.2, 1],
        "collafuse upload.noise=resampled": [0.2, 1],
        "collafuse train.local_epochs=3.0": [0.2],
    }
    assert len(section.runs) == 4


def test_an_end_alone_is_a_level(tmp_path: Path) -> None:
    runs = [fake(tmp_path, "local"), fake(tmp_path, "centralized"), fake(tmp_path, "fedavg")]
    assert labels(sections(runs[:1])[0]) == ["local"]
    assert labels(sections([runs[0], runs[2]])[0]) == ["local", "fedavg"]
    assert labels(sections([runs[1]])[0]) == ["centralized"]
    # With the other end, or a cut between, it is the end of a curve.
    assert labels(sections(runs)[0]) == ["collafuse, c = 0 (centralized)", "collafuse, c = 1 (local)", "fedavg"]


def test_each_data_set_is_a_section(tmp_path: Path) -> None:
    runs = [fake(tmp_path), fake(tmp_path, dataset="mnist", dataset_path="/a"), fake(tmp_path, dataset="mnist")]
    assert [section.dataset for section in sections(runs)] == ["digits", "mnist /a", "mnist"]


def test_disclosure_without_a_number(tmp_path: Path) -> None:
    runs = [fake(tmp_path, cut_ratio=cut) for cut in (0.0, 0.2, 1.0)]
    means = {
        (row.label, measure.key): getattr(row.estimate(measure), "mean", None)
        for row in sections([*runs, fake(tmp_path, "fedavg")])[0].rows
        for measure in (SNR, BITS, REID)
    }
    assert list(means.values()) == [math.inf, math.inf, 1, 12, 32, 0.8, -math.inf, 0, None, None, None, None]


def test_baselines_have_the_same_other_settings(tmp_path: Path) -> None:
    runs = [
        fake(tmp_path, strategy, train__local_epochs=e)
        for strategy in ("collafuse", "fedavg", "local")
        for e in (3.0, 4.0)
    ]
    (section,) = sections(runs)
    row = next(row for row in section.rows if row.label == "collafuse train.local_epochs=4.0, c = 0.2")
    for strategy in ("fedavg", "local"):
        baseline = section.baseline(row, strategy)
        assert baseline is not None
        assert [run.config.train.local_epochs for run in baseline.runs] == [4]
    assert section.baseline(row, "centralized") is None


def test_a_list_at_its_default_is_left_out(tmp_path: Path) -> None:
    drops: dict[str, Any] = {"partition": "drop_classes"}
    missing = [[[0, 0.5], [1, 0.5]], DEFAULTS["data.missing_classes"]]
    runs = [fake(tmp_path, data__missing_classes=share, **drops) for share in missing]
    (section,) = sections(runs)
    assert section.common == {"num_supernodes": 4, "partition": "drop_classes"}
    assert set(labels(section)) == {
        "collafuse, c = 0.2",
        "collafuse data.missing_classes=((0.0, 0.5), (1.0, 0.5)), c = 0.2",
    }
