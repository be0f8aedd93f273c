"""Image files of more than 8 bits a value: scaled, and never cut."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from collafuse_flwr.core.errors import DataError
from tests.unit.data.sets import at, loaded, refused, write_png


def write_png16(path: Path, values: NDArray[np.uint16]) -> None:
    """A PNG of 16 bits a channel, which Pillow cannot write in colour: (H, W, C) by its number of channels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", ["png", "tif", "jp2"])
def test_grey_of_16_bits_is_scaled_by_the_range_of_the_set(tmp_path: Path, suffix: str) -> None:
    values = np.arange(2 * 64, dtype=np.uint16).reshape(2, 8, 8) * 32 + 7
    for i, image in enumerate(values):
        write_png(tmp_path / "ab"[i] / f"{i}.{suffix}", image)
    images = loaded(tmp_path)
    assert images.images.shape == (2, 1, 8, 8)
    assert np.array_equal(images.images[:, 0].numpy(), (np.arange(128) / 127 * 255).round().reshape(2, 8, 8))
    assert images.report.facts["window"] == [7.0, 127 * 32 + 7.0]
    assert "7 to 4071 (their own range) become black to white" in images.report.lines[0]
    stated = loaded(tmp_path, window=(7.0, 8 * 32 + 7.0))
    assert stated.images[0, 0].flatten()[:9].tolist() == [0, 32, 64, 96, 128, 159, 191, 223, 255]
    assert int(stated.images[1].min()) == 255
    assert "(`data.window`)" in stated.report.lines[0]


def test_floats_are_scaled_and_what_is_no_number_is_black(tmp_path: Path) -> None:
    values = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
    values[0, 1], values[0, 2] = np.nan, np.inf
    write_png(tmp_path / "a" / "0.tiff", values)
    image = loaded(tmp_path).images[0, 0]
    assert image[0, :3].tolist() == [0, 0, 255]
    assert int(image[-1, -1]) == 255
    write_png(tmp_path / "a" / "0.tiff", np.full((8, 8), np.nan, np.float32))
    refused(at("imagefolder", tmp_path), "no value that is a finite number")


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_of_16_bits_is_scaled_and_not_cut(tmp_path: Path, channels: int) -> None:
    values = (np.random.default_rng(0).random((8, 8, channels)) * 4095).astype(np.uint16)
    values[..., 3:] = 65535
    values[:2, :, 3:] = 0
    write_png16(tmp_path / "a" / "0.png", values)
    images = loaded(tmp_path)
    shown = values[2 * (channels == 4) :, :, :3].astype(float)
    low, high = images.report.facts["window"]
    assert (low, high) == (shown.min(), shown.max())
    got = images.images[0].permute(1, 2, 0).numpy()
    assert np.array_equal(got[-len(shown) :], np.round((shown - low) / (high - low) * 255))
    assert not got[: 8 - len(shown)].any()


def write_tiff16(path: Path, values: NDArray[np.uint16], photometric: int) -> None:
    """A TIFF of 16 bits a channel, (H, W, C), little-endian in one strip, which Pillow cannot write in colour."""
    height, width, channels = values.shape
    short, long = 3, 4
    end = 8 + 2 + 12 * 10 + 4
    extra = 2 * channels
    entries = [
        (256, long, 1, width),
        (257, long, 1, height),
        (258, short, channels, end),
        (259, short, 1, 1),
        (262, short, 1, photometric),
        (273, long, 1, end + extra),
        (277, short, 1, channels),
        (278, long, 1, height),
        (279, long, 1, values.nbytes),
        (284, short, 1, 1),
    ]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack("<2sHI", b"II", 42, 8)
        + struct.pack("<H", len(entries))
        + directory
        + bytes(4)
        + struct.pack(f"<{channels}H", *[16] * channels)
        + values.astype("<u2").tobytes()
    )


def test_colour_of_16_bits_in_tiff_is_scaled_and_not_cut(tmp_path: Path) -> None:
    values = (np.random.default_rng(0).random((8, 8, 3)) * 4095).astype(np.uint16)
    write_tiff16(tmp_path / "a" / "0.tif", values, photometric=2)
    images = loaded(tmp_path, window=(0.0, 4095.0))
    assert np.array_equal(images.images[0].permute(1, 2, 0).numpy(), np.round(values / 4095 * 255))


def test_cmyk_of_16_bits_is_refused(tmp_path: Path) -> None:
    write_tiff16(tmp_path / "a" / "0.tif", np.zeros((8, 8, 4), np.uint16), photometric=5)
    refused(
        at("imagefolder", tmp_path),
        "0.tif",
        "16 bits a channel are read of grey and RGB alone",
    )


@pytest.mark.parametrize("background", ["black", "white"])
def test_grey_of_16_bits_with_opacity_is_scaled_and_laid_on_a_colour(tmp_path: Path, background: str) -> None:
    values = (np.random.default_rng(0).random((8, 8, 2)) * 4095).astype(np.uint16)
    values[..., 1] = 65535
    values[:2, :, 1], values[:2, :, 0] = 0, 60000
    write_png16(tmp_path / "a" / "0.png", values)
    images = loaded(tmp_path, window=(0.0, 4095.0), background=background)
    assert images.images.shape == (1, 1, 8, 8)
    assert np.array_equal(images.images[0, 0, 2:].numpy(), np.round(values[2:, :, 0] / 4095 * 255))
    assert images.images[0, 0, :2].unique().tolist() == [{"black": 0, "white": 255}[background]]


def test_what_one_image_cannot_give_is_said_once(tmp_path: Path) -> None:
    write_tiff16(tmp_path / "a" / "0.tif", np.zeros((8, 8, 4), np.uint16), photometric=5)
    with pytest.raises(DataError) as caught:
        loaded(tmp_path)
    assert str(caught.value).count("cannot be read as an image") == 1


def test_the_range_does_not_hang_on_which_images_are_used(tmp_path: Path) -> None:
    """A run with fewer images would else release the others with other values."""
    for i in range(6):
        write_png(tmp_path / "a" / f"{i}.png", np.full((8, 8), 100 * (i + 1), np.uint16))
    every, few = loaded(tmp_path), loaded(tmp_path, max_images=3)
    assert len(few) == 3
    assert {int(image.max()) for image in few.images} < {int(image.max()) for image in every.images}
