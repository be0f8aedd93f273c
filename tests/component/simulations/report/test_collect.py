"""Runs are collected wherever they are, each once, and what is no run is reported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import SettingError, UserError
from simulations.report.load_runs import collect
from tests.component.simulations.report.fakes import fake


def test_runs_are_collected_below_a_folder_and_in_it(tmp_path: Path) -> None:
    runs = [fake(tmp_path / "deep" / "er", seed=seed) for seed in (0, 1)]
    # A network's own configuration is no run, and neither is one that has not ended.
    write_json(runs[0].folder / "server" / "backbone" / "unet" / "config.json", {})
    write_json(tmp_path / "unfinished" / "config.json", {})
    for folders in ([tmp_path], [run.folder for run in runs], [tmp_path, runs[0].folder]):
        assert {run.folder for run in collect(folders)} == {run.folder for run in runs}
    (one,) = collect([runs[1].folder])
    assert (one.config, one.summary) == (runs[1].config, runs[1].summary)


def test_the_same_run_counts_once(tmp_path: Path) -> None:
    fake(tmp_path / "a", cut_ratio=1.0)
    fake(tmp_path / "b", cut_ratio=1.0, upload__noise="resampled", runner="local")
    (run,) = collect([tmp_path])
    assert run.folder.parent == tmp_path / "a"


@pytest.mark.parametrize("folder", ["absent", "."])
def test_where_no_run_is(tmp_path: Path, folder: str) -> None:
    with pytest.raises(SettingError, match="`runs` = "):
        collect([tmp_path / folder])


@pytest.mark.parametrize("damage", ["{", "[]", '{"pooled": {}}'])
def test_a_damaged_summary_is_refused_with_its_folder(tmp_path: Path, damage: str) -> None:
    run = fake(tmp_path)
    (run.folder / "summary.json").write_text(damage)
    with pytest.raises(UserError, match=re.escape(f"the run in {run.folder} cannot be read")):
        collect([tmp_path])


@pytest.mark.parametrize(
    ("strategy", "cut", "released"),
    [
        ("collafuse", 0.0, "clean images"),
        ("collafuse", 0.2, ""),
        ("collafuse", 1.0, "nothing"),
        ("fedavg", 0.2, "weights"),
        ("mdgan", 0.2, "weights"),
        ("huscf_gan", 0.2, "activations"),
    ],
)
def test_what_left_the_clients(tmp_path: Path, strategy: str, cut: float, released: str) -> None:
    assert fake(tmp_path, strategy, cut_ratio=cut).released == released
