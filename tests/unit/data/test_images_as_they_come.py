"""Image files as cameras, scanners and archives leave them."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.federated import load_client_data
from collafuse_flwr.data.image_decoding import has_heic
from collafuse_flwr.data.settings import DataConfig, background, changed_reading, window
from tests.unit.data.sets import at, loaded, pixels, refused, write_folder, write_png


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_upright(tmp_path: Path, orientation: int) -> None:
    upright = np.full((16, 16, 3), 90, np.uint8)
    upright[:8, :8] = (250, 0, 0)
    upright[:8, 8:] = (0, 250, 0)
    # How the pixels lie in the file, by what the note says of them.
    lies = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright.transpose(1, 0, 2), 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a").mkdir()
    Image.fromarray(np.ascontiguousarray(lies)).save(tmp_path / "a" / "0.png", exif=exif)
    assert np.array_equal(loaded(tmp_path).images[0].permute(1, 2, 0).numpy(), upright)


@pytest.mark.parametrize(
    ("colour", "rgb"), [("black", (0, 0, 0)), ("white", (255, 255, 255)), ("#102030", (16, 32, 48))]
)
def test_transparency_is_laid_on_a_colour(tmp_path: Path, colour: str, rgb: tuple[int, int, int]) -> None:
    hidden = np.dstack([pixels(8, 8, 3), np.full((8, 8), 255, np.uint8)])
    hidden[:4, :, :3], hidden[:4, :, 3] = (255, 0, 255), 0
    write_png(tmp_path / "a" / "0.png", hidden)
    images = loaded(tmp_path, background=colour)
    assert images.images[0, :, :4].permute(1, 2, 0).reshape(-1, 3).unique(dim=0).tolist() == [list(rgb)]
    assert np.array_equal(images.images[0, :, 4:].permute(1, 2, 0).numpy(), hidden[4:, :, :3])
    assert images.report.lines == (f"1 of 1 images (0.png) has transparency: laid on `data.background` = {colour}",)


def test_a_colour_that_is_none_and_a_window_that_is_none_are_refused() -> None:
    with pytest.raises(SettingError, match=r"^`data.background` = 'blak' .*#rrggbb"):
        background(DataConfig(background="blak"))
    for values in ((3.0,), (3.0, 3.0), (4.0, 3.0), (1.0, 2.0, 3.0)):
        with pytest.raises(SettingError, match=r"^`data.window` = .*the lower one first"):
            window(DataConfig(window=values))


def test_heic_is_read_where_the_plug_in_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif", reason="HEIC IS NOT TESTED: pillow-heif is not installed")
    assert has_heic()
    (tmp_path / "a").mkdir()
    image = Image.fromarray(np.full((64, 64, 3), (200, 100, 50), np.uint8))
    image.save(tmp_path / "a" / "0.heic", quality=100)
    image.save(tmp_path / "a" / "1.HEIF", format="HEIF", quality=100)
    images = loaded(tmp_path).images.float()
    assert images.shape == (2, 3, 64, 64)
    assert (images - torch.tensor([200.0, 100, 50])[None, :, None, None]).abs().max() < 8


def test_heic_without_the_plug_in_is_counted_and_the_plug_in_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    write_folder(tmp_path)
    (tmp_path / "cat" / "0.heic").write_bytes(b"not read")
    assert loaded(tmp_path).report.lines == ("files that are not read (1 .heic; the plug-in pillow-heif reads HEIC)",)


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp"])
def test_of_several_pages_the_first_is_read(tmp_path: Path, suffix: str) -> None:
    pages = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (40, 200)]
    (tmp_path / "a").mkdir()
    pages[0].save(tmp_path / "a" / f"0.{suffix}", save_all=True, append_images=pages[1:])
    images = loaded(tmp_path)
    assert (images.images.float().mean() - 40).abs() < 3
    assert any("several pages or frames, of which the first is read" in line for line in images.report.lines)


def test_a_gif_of_some_greys_is_grey(tmp_path: Path) -> None:
    for i, image in enumerate(pixels(4, 8, 8)):
        write_png(tmp_path / "a" / f"{i}.gif", image)
    images = loaded(tmp_path)
    assert np.array_equal(images.images[:, 0].numpy(), pixels(4, 8, 8))
    assert images.images.shape[1] == 1
    assert images.report.lines == ()


def test_further_formats(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((16, 16, 3), (200, 100, 50), np.uint8))
    (tmp_path / "a").mkdir()
    for suffix in ("avif", "jp2", "JFIF", "webp"):
        image.save(tmp_path / "a" / f"0.{suffix}", format={"JFIF": "JPEG"}.get(suffix))
    images = loaded(tmp_path).images.float()
    assert images.shape == (4, 3, 16, 16)
    assert (images - torch.tensor([200.0, 100, 50])[None, :, None, None]).abs().max() < 8


def test_a_folder_without_subfolders_is_one_class(tmp_path: Path) -> None:
    for i in range(3):
        write_png(tmp_path / f"{i}.png", np.full((8, 8), i, np.uint8))
    images = loaded(tmp_path)
    assert images.class_names == ("unlabelled",)
    assert images.images[:, 0, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "Validation", "Testing"), ("train", "val", "test")])
def test_splits_are_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write_folder(tmp_path / name)
    images = loaded(tmp_path)
    assert images.class_names == ("cat", "dog")
    assert len(images) == 6
    assert f"only the images in {names[0]} are read" in images.report.lines[0]


def test_the_split_is_a_setting(tmp_path: Path) -> None:
    for i, name in enumerate(("train", "Validation", "test")):
        write_png(tmp_path / name / "a" / "0.png", np.full((8, 8), i, np.uint8))
    for i, split in enumerate(("train", "val", "test")):
        images = loaded(tmp_path, split=split)
        assert int(images.images.max()) == i
        assert f"only the images in {('train', 'Validation', 'test')[i]} are read" in images.report.lines[0]
    with pytest.raises(SettingError, match=r"^`data.split` = 'test' .* in it is a$"):
        loaded(tmp_path / "train", split="test")


def test_a_class_beside_a_split_makes_it_a_class(tmp_path: Path) -> None:
    write_png(tmp_path / "train" / "0.png", pixels(8, 8))
    write_png(tmp_path / "bus" / "0.png", pixels(8, 8) // 2)
    assert loaded(tmp_path).class_names == ("bus", "train")


def test_folders_without_images_are_no_reason_to_take_splits_for_classes(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_folder(tmp_path / name)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "boxes.json").write_text("{}")
    images = loaded(tmp_path)
    assert images.class_names == ("cat", "dog")
    assert images.report.lines == ("test, train are splits and no classes: only the images in train are read",)


def test_splits_may_lie_in_the_only_folder(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_folder(tmp_path / "flowers-v2" / name)
    images = loaded(tmp_path, split="test")
    assert images.class_names == ("cat", "dog")
    assert len(images) == 6
    assert images.report.lines == ("test, train are splits and no classes: only the images in test are read",)


def test_splits_may_lie_in_each_class(tmp_path: Path) -> None:
    for i, (name, split) in enumerate((name, split) for name in ("a", "b") for split in ("train", "test")):
        write_png(tmp_path / name / split / "deep" / "0.png", np.full((8, 8), i, np.uint8))
    # A class of which the split has no image is none.
    write_png(tmp_path / "c" / "test" / "0.png", np.full((8, 8), 9, np.uint8))
    images = loaded(tmp_path)
    assert images.class_names == ("a", "b")
    assert images.images[:, 0, 0, 0].tolist() == [0, 2]
    line = "each class has folders for its splits: only the images in train are read"
    assert images.report.lines == (line,)
    assert loaded(tmp_path, split="test").images[:, 0, 0, 0].tolist() == [1, 3, 9]
    # An image beside the folders makes them part of the class.
    write_png(tmp_path / "a" / "0.png", np.full((8, 8), 7, np.uint8))
    assert loaded(tmp_path).images[:, 0, 0, 0].tolist() == [7, 1, 0, 3, 2, 9]


def test_one_split_alone_is_read_if_it_is_meant(tmp_path: Path) -> None:
    write_folder(tmp_path / "test")
    line = "test is a split and no class: only the images in test are read"
    assert loaded(tmp_path, split="test").report.lines == (line,)
    with pytest.raises(SettingError, match=r"^`data.split` = 'train' .* in it is test$"):
        loaded(tmp_path)


def test_a_link_that_leads_back_is_not_followed(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "cat" / "back").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "dog" / "again").symlink_to(tmp_path / "dog", target_is_directory=True)
    assert len(loaded(tmp_path)) == 6


def test_what_is_not_read_is_counted(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for name in ("__MACOSX/cat/._0.png", "cat/.hidden.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert loaded(tmp_path).report.lines == ()
    for name in ("README.txt", "cat/notes.TXT", "dog/scan.dcm", "notes/plain"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    write_png(tmp_path / "beside.png", pixels(8, 8))
    report = loaded(tmp_path).report
    assert report.lines == (
        "folders without images are no classes: notes",
        "files that are not read (2 .txt, 1 .dcm, 1 without ending, 1 .png)",
    )
    assert len(report.facts["not_read"]) == 5


def test_bad_files_are_refused_or_skipped(tmp_path: Path) -> None:
    written = write_folder(tmp_path, per_class=8)
    path = tmp_path / "cat" / "001.png"
    path.write_bytes(path.read_bytes()[:60])
    refused(
        at("imagefolder", tmp_path), "001.png cannot be read as an image", "; `data.on_bad_file` = skip leaves such"
    )
    for size in (0, 4):
        images = loaded(tmp_path, on_bad_file="skip", image_size=size)
        assert len(images) == 15
        assert images.report.facts["skipped"] == [str(path)]
        assert images.report.lines == (f"1 of 16 images cannot be read and are left out, as {path} is",)
    images = loaded(tmp_path, on_bad_file="skip")
    assert np.array_equal(images.images[:, 0].numpy(), np.delete(written, 1, axis=0))
    assert images.labels.bincount().tolist() == [7, 8]
    config = replace(at("imagefolder", tmp_path), on_bad_file="skip")
    own = load_client_data(config, b"1" * 16, str(tmp_path), str(tmp_path.parent / "own"))
    assert len(own.train) + len(own.held_out) == 15
    rows = torch.cat([own.train.images, own.held_out.images])
    assert sorted(row.numpy().tobytes() for row in rows) == sorted(row.numpy().tobytes() for row in images.images)
    for other in tmp_path.rglob("*.png"):
        other.write_bytes(b"damaged")
    refused(replace(config, image_size=8), "none of its images can be read")


def test_large_images_are_refused_with_the_setting_that_allows_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("1", (14_000, 14_000)).save(tmp_path / "a" / "slide.png")
    config = at("imagefolder", tmp_path, image_size=8)
    refused(config, "slide.png", "14000 x 14000 pixels", "`data.max_pixels` = 178956970")
    assert loaded(tmp_path, image_size=8, max_pixels=14_000**2).images.shape == (1, 1, 8, 8)


@pytest.mark.parametrize("most", ["grey", "colour"])
def test_the_few_follow_the_many(tmp_path: Path, most: str) -> None:
    other = pixels(8, 8, 3) if most == "grey" else pixels(8, 8)
    for i, image in enumerate(pixels(5, 8, 8) if most == "grey" else pixels(5, 8, 8, 3)):
        write_png(tmp_path / "a" / f"{i}.png", image)
    write_png(tmp_path / "a" / "other.png", other)
    images = loaded(tmp_path)
    assert images.images.shape == (6, 1 if most == "grey" else 3, 8, 8)
    assert len(images.report.lines) == 1
    assert f"1 of 6 images (other.png) has been made {most}" in images.report.lines[0]
    assert images.report.facts["converted"] == [str(tmp_path / "a" / "other.png")]


def test_equal_images_are_counted(tmp_path: Path) -> None:
    write_folder(tmp_path)
    first = tmp_path / "cat" / "000.png"
    write_png(tmp_path / "dog" / "same.bmp", np.array(Image.open(first)))
    report = loaded(tmp_path).report
    assert report.facts["equal"] == [[str(first), str(tmp_path / "dog" / "same.bmp")]]
    assert report.lines[0].startswith("2 of 7 images are equal to another one")
    np.savez(tmp_path / "set.npz", images=np.zeros((4, 8, 8), np.uint8))
    lines = load_images(at("npz", tmp_path / "set.npz"), seed=0).report.lines
    assert lines[0].startswith("4 of 4 images are equal to another one, as image 0 of set.npz and image 1 of set.npz")


def test_settings_of_reading_that_are_not_at_their_default_are_listed_by_value() -> None:
    assert not changed_reading(DataConfig())
    config = DataConfig(window=(0.0, 4095.0), background="white", class_names=("a", "b"))
    expected = {"data.window=[0,4095]", "data.background=white", "data.class_names=[a,b]"}
    assert changed_reading(config) == expected
