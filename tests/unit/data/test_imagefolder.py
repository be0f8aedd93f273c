from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from collafuse_flwr.core.errors import DataError, SettingError
from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.loaders.imagefolder import load_folder
from tests.unit.data.sets import at, pixels, refused, write_folder, write_png


def test_folder_is_read_in_sorted_order(tmp_path: Path) -> None:
    written = write_folder(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.txt").write_text("not an image")
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    (tmp_path / "cat" / ".hidden.png").write_text("not an image")
    write_png(tmp_path / "dog" / ".ipynb_checkpoints" / "000-checkpoint.png", pixels(8, 8))
    images = load_images(at("imagefolder", tmp_path), seed=0)
    assert np.array_equal(images.images[:, 0].numpy(), written)
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.class_names == ("cat", "dog")


def test_folders_without_images_are_classes_only_if_they_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "bird").mkdir()
    write_png(tmp_path / "dog" / "large" / "000.png", pixels(8, 8))
    config = at("imagefolder", tmp_path)
    images = load_images(config, seed=0)
    assert images.class_names == ("cat", "dog")
    assert images.labels.bincount().tolist() == [3, 4]
    assert "folders without images are no classes: bird" in images.report.lines
    named = load_images(replace(config, class_names=("bird", "cat", "dog")), seed=0)
    assert named.class_names == ("bird", "cat", "dog")
    assert named.labels.bincount().tolist() == [0, 3, 4]
    with pytest.raises(SettingError, match=r"^`data.class_names` = \['cat'\] .* \(cat, dog\)"):
        load_images(replace(config, class_names=("cat",)), seed=0)


@pytest.mark.parametrize(
    ("modes", "channels"),
    [(["L", "1"], 1), (["L", "RGB"], 3), (["RGBA"], 3), (["P"], 3), (["LA"], 1), (["CMYK"], 3)],
)
def test_channels_follow_the_modes(modes: list[str], channels: int, tmp_path: Path) -> None:
    for mode in modes:
        suffix = "tiff" if mode == "CMYK" else "png"
        write_png(tmp_path / "one" / f"{mode}.{suffix}", np.full((8, 8, 3), 255, dtype=np.uint8), mode)
    images = load_images(at("imagefolder", tmp_path), seed=0).images
    assert images.shape == (len(modes), channels, 8, 8)
    assert images.min() == 255


def test_palette_with_transparency(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    image = Image.fromarray(np.zeros((8, 8), dtype=np.uint8), "L").convert("P")
    image.save(tmp_path / "one" / "p.png", transparency=bytes([0] * 256))
    assert load_images(at("imagefolder", tmp_path), seed=0).images.shape == (1, 1, 8, 8)


def test_images_of_several_sizes_need_image_size(tmp_path: Path) -> None:
    write_png(tmp_path / "one" / "a.png", pixels(8, 8))
    write_png(tmp_path / "one" / "b.png", pixels(10, 12))
    refused(at("imagefolder", tmp_path), "`image_size` = 0", "a.png is 8 x 8", "b.png is 10 x 12")
    assert load_images(at("imagefolder", tmp_path, image_size=8), seed=0).images.shape == (2, 1, 8, 8)


def test_images_that_are_not_square_need_image_size(tmp_path: Path) -> None:
    write_png(tmp_path / "one" / "a.png", pixels(8, 12))
    refused(at("imagefolder", tmp_path), "`image_size` = 0", "8 x 12")


def test_images_beyond_max_images_are_not_decoded(tmp_path: Path) -> None:
    write_folder(tmp_path)
    kept = load_images(at("imagefolder", tmp_path, max_images=5), seed=0).images
    everything = load_images(at("imagefolder", tmp_path), seed=0).images
    (dropped,) = (i for i, image in enumerate(everything) if not any(torch.equal(image, other) for other in kept))
    sorted(tmp_path.rglob("*.png"))[dropped].write_bytes(b"damaged")
    assert torch.equal(load_images(at("imagefolder", tmp_path, max_images=5), seed=0).images, kept)
    refused(at("imagefolder", tmp_path), "cannot be read as an image")


def test_damaged_images_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    path = tmp_path / "cat" / "001.png"
    whole = path.read_bytes()
    for damaged in (b"", b"GIF", whole[: len(whole) // 2], whole[:40] + b"\xff\0" + whole[42:]):
        path.write_bytes(damaged)
        refused(at("imagefolder", tmp_path), "cannot be read as an image", "001.png")


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(at("imagefolder", tmp_path), "no images in it;")
    (tmp_path / "empty" / "scan.dcm").write_bytes(b"DICM")
    refused(at("imagefolder", tmp_path), "no images in it (1 .dcm)")
    refused(at("imagefolder", tmp_path / "empty" / "scan.dcm"), "not a folder")


def test_images_of_several_sizes_are_refused_over_chunks(tmp_path: Path) -> None:
    write_png(tmp_path / "one" / "a.png", pixels(8, 8))
    write_png(tmp_path / "one" / "b.png", pixels(10, 12))
    source = load_folder(at("imagefolder", tmp_path))
    assert [path.name for path in source.files(torch.tensor([1]))] == ["b.png"]
    source.read(torch.tensor([0]))
    with pytest.raises(DataError, match=r"^`image_size` = 0 .* a.png is 8 x 8 pixels and b.png is 10 x 12"):
        source.read(torch.tensor([1]))
