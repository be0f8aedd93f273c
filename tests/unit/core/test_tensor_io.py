"""A file of tensors comes back as it was written, or is named as damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.core.errors import DamagedError
from collafuse_flwr.core.tensor_io import newest_undamaged, read_tensors, write_tensors

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "scalar": torch.tensor(3),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, 4),
}


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", TENSORS | {"strided": torch.arange(6).view(2, 3).t()}, {"name": "é"})
    tensors, metadata = read_tensors(tmp_path / "x")
    assert metadata == {"name": "é"}
    assert tensors["strided"].tolist() == [[0, 3], [1, 4], [2, 5]]
    for name, value in TENSORS.items():
        assert (tensors[name].dtype, tensors[name].shape) == (value.dtype, value.shape)
        assert torch.equal(tensors[name], value)


@settings(max_examples=200, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_seen(tmp_path_factory: pytest.TempPathFactory, place: float, bit: int) -> None:
    path = tmp_path_factory.mktemp("flip") / "x"
    write_tensors(path, TENSORS, {"round": "12"})
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        tensors, metadata = read_tensors(path)
    except DamagedError:
        pass
    else:
        # Between the names in a header there is padding, which says nothing.
        assert metadata == {"round": "12"}
        assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())


@settings(max_examples=50, deadline=None)
@given(kept=st.floats(0, 1, exclude_max=True))
def test_any_truncation_is_seen(tmp_path_factory: pytest.TempPathFactory, kept: float) -> None:
    path = tmp_path_factory.mktemp("cut") / "x"
    write_tensors(path, TENSORS)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(DamagedError):
        read_tensors(path)


def test_the_one_before_is_taken_in_place_of_a_damaged_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    write_tensors(new, {"a": torch.zeros(1)})
    write_tensors(new, {"a": torch.ones(1)}, keep=old)
    assert [float(newest_undamaged([path])[0]["a"]) for path in (new, old)] == [1.0, 0.0]
    new.write_bytes(b"")
    assert float(newest_undamaged([new, old])[0]["a"]) == 0.0
    assert (
        capsys.readouterr().err
        == f"warning: {new} is damaged: its checksum is another; old, the one before, is taken instead\n"
    )
    old.write_bytes(b"?")
    with pytest.raises(DamagedError, match="new is damaged"):
        newest_undamaged([new, old])
