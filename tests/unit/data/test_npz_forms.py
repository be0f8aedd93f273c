"""Archives in the forms in which others save arrays of images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.datasets import load_images
from tests.unit.data.sets import at, in_chunks, pixels


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1)])
def test_floats_are_recognised_by_their_range(dtype: Any, low: int, high: int, tmp_path: Path) -> None:
    written, path = pixels(40, 16, 16), tmp_path / "set.npz"
    np.savez(path, images=(written / 255 * (high - low) + low).astype(dtype))
    images = load_images(at("npz", path), seed=0)
    # Of [-1, 1] half precision holds fewer steps than there are bytes.
    assert np.abs(images.images[:, 0].numpy().astype(int) - written).max() <= (dtype == np.float16)
    name = np.dtype(dtype).name
    line = f"`images` is {name}: {low} to {high} (as floats in this range) become black to white"
    assert images.report.lines == (line,)
    assert images.report.facts["window"] == [low, high]
    assert torch.equal(in_chunks(at("npz", path), 7), images.images)


def test_a_range_is_not_stretched(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=np.linspace(0.2, 0.6, 64).reshape(1, 8, 8))
    images = load_images(at("npz", tmp_path / "set.npz"), seed=0).images
    assert (int(images.min()), int(images.max())) == (51, 153)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int64])
def test_whole_numbers_of_more_bits_are_scaled_by_their_own_range_or_a_stated_one(dtype: Any, tmp_path: Path) -> None:
    values, path = np.arange(128, dtype=dtype).reshape(2, 8, 8) * 32 + 7, tmp_path / "set.npz"
    np.savez_compressed(path, images=values)
    images = load_images(at("npz", path), seed=0)
    assert np.array_equal(images.images[:, 0].numpy(), (np.arange(128) / 127 * 255).round().reshape(2, 8, 8))
    assert "7 to 4071 (their own range)" in images.report.lines[0]
    stated = load_images(replace(at("npz", path), window=(7.0, 8 * 32 + 7.0)), seed=0)
    assert stated.images[0, 0].flatten()[:3].tolist() == [0, 32, 64]
    assert "(`data.window`)" in stated.report.lines[0]


def test_floats_of_another_range_need_a_window(tmp_path: Path) -> None:
    written, path = pixels(4, 8, 8), tmp_path / "set.npz"
    np.savez(path, images=written.astype(np.float32))
    images = load_images(replace(at("npz", path), window=(0.0, 255.0)), seed=0).images
    assert np.array_equal(images[:, 0].numpy(), written)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_may_come_first(channels: int, tmp_path: Path) -> None:
    written, path = pixels(40, channels, 16, 16), tmp_path / "set.npz"
    np.savez(path, images=written)
    images = load_images(at("npz", path), seed=0)
    assert np.array_equal(images.images.numpy(), written)
    assert images.report.lines == (f"`images` has shape (40, {channels}, 16, 16): the channels come first",)


def test_floats_with_channels_first_are_both(tmp_path: Path) -> None:
    written, path = pixels(6, 3, 16, 16), tmp_path / "set.npz"
    np.savez(path, x_train=written / 255, y_train=np.arange(6) % 2)
    images = load_images(at("npz", path), seed=0)
    assert np.array_equal(images.images.numpy(), written)
    assert images.labels.tolist() == [0, 1] * 3
    assert len(images.report.lines) == 2


def test_volumes_keep_the_patients_and_attributes_that_an_archive_has(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    attributes = np.eye(3, 2, dtype=np.uint8)
    np.savez(path, images=pixels(3, 6, 8, 8), patient=[7, 9, 7], attributes=attributes, attribute_names=["a", "b"])
    images = load_images(at("npz", path), seed=0)
    assert images.metadata.groups["patient"].tolist() == [0] * 6 + [1] * 6 + [0] * 6
    assert images.metadata.attributes is not None
    assert np.array_equal(images.metadata.attributes.numpy(), attributes.repeat(6, axis=0))


def test_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=pixels(3, 8, 8), train_images=pixels(3, 8, 8))
    with pytest.raises(SettingError, match=r"^`data.split` = 'val' .* in it is images, train_images$"):
        load_images(replace(at("npz", tmp_path / "set.npz"), split="val"), seed=0)
