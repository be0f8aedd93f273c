"""Folders of generated images: numbered, whole or not there, and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from collafuse_flwr.runs import figures
from collafuse_flwr.runs.generated import count_images, next_folder, write_images

IMAGES = torch.zeros(11, 1, 8, 8)


def test_a_folder_has_each_image_a_grid_and_what_they_are(tmp_path: Path) -> None:
    write_images(tmp_path / "new", IMAGES, torch.arange(11), {"seed": 3})
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {*(f"{i:02d}-class-{i}.png" for i in range(11)), "grid.png", "generated.json"}
    assert json.loads((tmp_path / "new" / "generated.json").read_text()) == {"seed": 3, "num_images": 11}
    write_images(tmp_path / "plain", IMAGES[:2], None, {})
    assert {path.name for path in (tmp_path / "plain").glob("*.png")} == {"0.png", "1.png", "grid.png"}
    assert count_images(tmp_path) == 13


def test_nothing_is_left_of_what_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(figures, "save_grid", full)
    with pytest.raises(OSError, match="no space left"):
        write_images(tmp_path / "new", IMAGES, None, {})
    assert list(tmp_path.iterdir()) == []


def test_folders_are_numbered_and_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    assert next_folder(tmp_path / "absent").name == "0001"
    write_images(tmp_path / "0007", IMAGES, None, {})
    (tmp_path / ".unfinished-of-a-killed-process").mkdir()
    (tmp_path / "notes").mkdir()
    assert next_folder(tmp_path) == tmp_path / "0008"
    assert {path.name for path in tmp_path.iterdir()} == {"0007", "notes"}
    assert count_images(tmp_path) == 11
