"""`python -m simulations.partition`: who would hold what."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.settings import DataConfig
from simulations import partition
from tests.commands import refused
from tests.unit.data.sets import write_folder


def call(*arguments: str) -> int:
    """The command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["partition", *arguments])
        return partition.main()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "partition.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_is_what_a_run_would_deal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "report"
    assert call("num_supernodes=4", "data.max_images=200", "seed=3", f"output={output}") == 0
    data = federation_data(DataConfig(max_images=200), 4, 3)
    for row, own in zip(rows(output), map(data.client, range(4)), strict=True):
        assert (int(row["train"]), int(row["held_out"])) == (len(own.train), len(own.held_out))
        counted = own.train.labels.bincount(minlength=10) + own.held_out.labels.bincount(minlength=10)
        assert [int(row[str(digit)]) for digit in range(10)] == counted.tolist()
    printed = capsys.readouterr().out
    assert f"Table and picture are in {output}" in printed
    assert str(len(data.client(2).train)) in printed
    with Image.open(output / "partition.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10


def test_what_was_done_about_the_files_is_in_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        write_folder(tmp_path / "images" / split, per_class=10)
    arguments = ("dataset=imagefolder", f"dataset_path={tmp_path / 'images'}", "num_supernodes=2", "partition=iid")
    assert call(*arguments, f"output={tmp_path / 'report'}") == 0
    line = "images: test, train are splits and no classes: only the images in train are read"
    assert capsys.readouterr().out.splitlines()[0] == line


def test_sets_of_a_list_are_counted_by_domain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / f"{name}.npz" for name in "ab"]
    for each in paths:
        np.savez(each, images=np.zeros((120, 8, 8), np.uint8), labels=np.arange(120) % 30)
    output, path = tmp_path / "report", ",".join(f"'{path}'" for path in paths)
    arguments = ("dataset=[npz,npz]", f"dataset_path=[{path}]", "partition=by_domain", "num_supernodes=40")
    assert call(*arguments, f"output={output}") == 0
    assert {row["domain"] for row in rows(output)} == {"1"}
    assert len(rows(output)) == 40
    printed = capsys.readouterr().out
    assert "The first 30 of 40 clients are shown" in printed
    assert "of 30" in printed


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for arguments, parts in (
        (["partition=by_identity"], ("`partition` = 'by_identity'", "iid, dirichlet, by_class")),
        (["partition=by_attribute", "data.attribute_groups=[[Hat,Bald],[Smiling]]"], ("`partition` = 'by_attribute'",)),
        (["num_supernodes=5000"], ("`num_supernodes` = 5000", "1797")),
        ([f"output={tmp_path / 'file'}"], ("`output`", "a folder")),
    ):
        assert call(*arguments) == 2
        message = refused(capsys)
        assert all(part in message for part in parts)
