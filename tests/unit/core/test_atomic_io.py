"""A file is there whole, old or new, or not at all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import atomic_write, write_json, write_json_lines
from collafuse_flwr.core.tensor_io import write_tensors
from collafuse_flwr.runs.run_layout import RunLayout
from tests.strict_json import plain, strict

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Killed(BaseException):
    """Stands for the end of the process."""


def write_and_die(path: Path, written: bytes, error: BaseException) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(written)
        raise error


def test_a_file_appears_whole_and_its_folder_with_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.bin"
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == path.parent, "or moving it would copy it"
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("no space left on device"), Killed()])
@pytest.mark.parametrize("written", [b"", b"half"])
def test_a_writer_that_dies_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException, written: bytes
) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_and_die(path, written, error)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_dies_before_there_was_a_file_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        write_and_die(tmp_path / "file.bin", b"half", Killed())
    assert not list(tmp_path.iterdir())


def test_a_writer_that_writes_nothing_raises_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(FileNotFoundError), atomic_write(path):
        pass
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("write", [write_json, lambda path, value: write_json_lines(path, [value, value])])
def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "file.json"
    write(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write(path, {"a": object()})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, float(np.float64("nan")), np.float64("inf")])
def test_what_json_does_not_know_becomes_null_however_deep(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "a.json", {"a": [1.5, (value, {"b": value})], "c": value})
    assert strict((tmp_path / "a.json").read_text()) == {"a": [1.5, [None, {"b": None}]], "c": None}


@given(JSON)
def test_json_is_strict_and_finite_numbers_keep_all_their_digits(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    write_json(path, value)
    assert strict(path.read_text()) == plain(value)


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=4))
def test_json_lines_are_one_object_a_line(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    write_json_lines(path, rows)
    text = path.read_text()
    assert text.count("\n") == len(rows)
    assert [strict(line) for line in text.split("\n")[:-1]] == plain(rows)


def test_a_run_is_in_its_output_or_below_where_it_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunLayout.of(Config(), 42).folder == tmp_path / "runs" / "42"
    assert RunLayout.of(Config.from_flat({"output": "here"}), 42).folder == tmp_path / "here"
    assert RunLayout.of(Config.from_flat({"output": "/there"}), 42).folder == Path("/there")


def test_no_two_clients_share_a_folder(tmp_path: Path) -> None:
    assert len({RunLayout(tmp_path).client(client).folder for client in range(100)}) == 100
    assert RunLayout(tmp_path).client(7).folder.is_relative_to(tmp_path)


def test_tensors_are_written_however_they_lie_in_memory(tmp_path: Path) -> None:
    image = torch.arange(24.0).view(1, 2, 3, 4)
    given = {"plain": image, "last": image.to(memory_format=torch.channels_last), "turned": image.transpose(2, 3)}
    write_tensors(tmp_path / "tensors.safetensors", given, {"what": "an image"})
    read = load_file(tmp_path / "tensors.safetensors")
    assert read.keys() == given.keys()
    assert all(torch.equal(read[name], value) for name, value in given.items())
