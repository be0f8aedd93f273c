"""Folders of NIfTI volumes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.federated import federation_data, load_client_data
from collafuse_flwr.data.images import ImageSet
from collafuse_flwr.data.settings import DataConfig, slices
from tests.unit.data.sets import at, in_chunks, refused


def voxels(seed: int = 0, shape: tuple[int, ...] = (10, 12, 7)) -> NDArray[np.int16]:
    """Hounsfield units."""
    return np.random.default_rng(seed).integers(-1000, 2000, shape, dtype=np.int16)


def write(path: Path, values: NDArray[Any], axes: tuple[int, ...] = (-1, -1, 1), slope: float = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, np.diag([*axes, 1]))
    image.header.set_slope_inter(slope, 0)
    nibabel.save(image, path)


def loaded(root: Path, **settings: Any) -> ImageSet:
    return load_images(replace(at("nifti", root, image_size=8), **settings), seed=0)


def test_folders_are_patients_and_slices_their_images(tmp_path: Path) -> None:
    for i, name in enumerate(("sub-02/ses-1/a.nii.gz", "sub-01/b.nii", "sub-02/ses-2/a.nii.gz", "loose.nii")):
        write(tmp_path / name, voxels(i))
    (tmp_path / "sub-01" / "b.json").write_text("{}")
    images = loaded(tmp_path, partition="by_patient")
    assert images.images.shape == (28, 1, 8, 8)
    # In order of their names: the loose one first.
    assert images.metadata.groups["patient"].tolist() == [0] * 7 + [1] * 7 + [2] * 14
    assert images.metadata.group_key == "patient"
    assert images.class_names == ("unlabelled",)
    assert images.report.lines == (
        "files that are not read (1 .json)",
        "28 slices of 4 volumes of 3 patients: of each volume its own range but for 0.1 % at either end "
        "becomes black to white",
    )
    assert torch.equal(in_chunks(at("nifti", tmp_path, image_size=8), 5), images.images)
    config = replace(at("nifti", tmp_path, image_size=8), partition="iid")
    (client,) = federation_data(config, 1, 0).partitions
    patients = images.metadata.groups["patient"]
    assert not set(patients[client.train].tolist()) & set(patients[client.held_out].tolist())


def test_a_deployed_client_holds_out_whole_patients(tmp_path: Path) -> None:
    for i in range(6):
        write(tmp_path / "scans" / f"p{i // 2}" / f"{i}.nii", voxels(i))
    config = at("nifti", tmp_path, image_size=8)
    own = load_client_data(config, b"1" * 16, str(tmp_path / "scans"), str(tmp_path / "cache"))
    train, held_out = (set(part.metadata.groups["patient"].tolist()) for part in (own.train, own.held_out))
    assert train | held_out == {0, 1, 2}
    assert not train & held_out


@pytest.mark.parametrize("signs", [(-1, -1, 1), (1, 1, -1)])
@pytest.mark.parametrize(
    ("axis", "shape", "place"),
    [("axial", (7, 12, 10), (6, 2, 1)), ("coronal", (12, 7, 10), (2, 0, 1)), ("sagittal", (10, 7, 12), (1, 0, 2))],
)
def test_slices_are_upright_along_each_axis(
    axis: str, shape: tuple[int, ...], place: tuple[int, ...], signs: tuple[int, ...], tmp_path: Path
) -> None:
    """A marker 1 to the left of the right side, 2 behind the front and 6 above the bottom, as a volume is LPS."""
    values = np.zeros((10, 12, 7), np.int16)
    values[1, 2, 6] = 500
    # Towards the right, the front and the top, as NIfTI counts them.
    flips = tuple(slice(None, None, -1 if sign != own else 1) for sign, own in zip(signs, (-1, -1, 1), strict=True))
    write(tmp_path / "a.nii", values[flips], signs)
    images = loaded(tmp_path, slice_axis=axis, image_size=64, window=(0.0, 500.0))
    count, height, width = shape
    side = min(height, width)
    row, column = place[1] - (height - side) // 2, place[2] - (width - side) // 2
    assert len(images) == count
    brightest = images.images[place[0], 0].flatten().argmax()
    assert (int(brightest) // 64 * side // 64, int(brightest) % 64 * side // 64) == (row, column)
    assert images.images[place[0]].max() > 100


def test_a_window_in_hounsfield_units_is_applied_to_rescaled_values(tmp_path: Path) -> None:
    values = voxels(shape=(8, 8, 3)) // 2
    write(tmp_path / "a.nii.gz", values, slope=2)
    images = loaded(tmp_path, window=(-160.0, 240.0), image_size=0)
    expected = ((values * 2.0 + 160) / 400).clip(0, 1) * 255
    assert np.abs(images.images[:, 0].numpy() - expected.transpose(2, 1, 0)).max() <= 0.51
    assert "of each volume -160 to 240 (`data.window`) become black to white" in images.report.lines[0]


def test_each_volume_has_its_own_range_where_none_is_stated(tmp_path: Path) -> None:
    values = voxels(shape=(32, 32, 4))
    values[0, 0, 0] = 30_000
    write(tmp_path / "a.nii", values)
    write(tmp_path / "b.nii", 10 * values.astype(np.int32))
    images = loaded(tmp_path, image_size=0).images
    assert torch.equal(images[:4], images[4:])
    assert images[:4].float().mean() == pytest.approx(127, abs=10)


def test_some_slices_and_files_are_read_if_the_settings_say_so(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        for kind in ("t1", "t2", "seg"):
            write(tmp_path / patient / f"{patient}_{kind}.nii.gz", voxels(shape=(8, 8, 7)))
    images = loaded(tmp_path, file_pattern="*_t[12].nii.gz", slices=(2.0, 4.0), image_size=0)
    assert len(images) == 2 * 2 * 3
    assert images.report.lines[0] == "files that are not read (2 .gz)"
    every = loaded(tmp_path, file_pattern="*_t1.nii.gz", image_size=0, window=(-1000.0, 2000.0))
    some = loaded(tmp_path, file_pattern="*_t1.nii.gz", image_size=0, window=(-1000.0, 2000.0), slices=(2.0, 4.0))
    assert torch.equal(some.images, every.images[[2, 3, 4, 9, 10, 11]])
    refused(replace(at("nifti", tmp_path), slices=(2.0, 7.0)), "7 axial slices, and `data.slices` ends with 7", "6")
    refused(replace(at("nifti", tmp_path), file_pattern="*.mha"), "`data.file_pattern` = '*.mha' (6 .gz)", "expected")


def test_folders_are_classes_if_they_are_named(tmp_path: Path) -> None:
    for name in ("train/sick/p1/a.nii", "train/sick/p1/b.nii", "train/well/p2/a.nii", "train/well/c.nii", "test/x.nii"):
        write(tmp_path / name, voxels())
    images = loaded(tmp_path, class_names=("well", "sick"), slices=(3.0, 3.0))
    assert images.class_names == ("well", "sick")
    assert images.labels.tolist() == [1, 1, 0, 0]
    assert images.metadata.groups["patient"].tolist() == [1, 1, 0, 2]
    assert "only the images in train are read" in images.report.lines[0]
    with pytest.raises(SettingError, match=r"^`data.class_names` = \['well'\] .*\(sick, well\)"):
        loaded(tmp_path, class_names=("well",))
    config = replace(at("nifti", tmp_path), class_names=("well",), split="test")
    refused(config, "no file in it fits `data.file_pattern` = '*' (1 .nii)", "expected")
    write(tmp_path / "train" / "x.nii", voxels())
    beside = loaded(tmp_path, class_names=("well", "sick"), slices=(3.0, 3.0))
    assert torch.equal(beside.images, images.images)
    assert "files that are not read (1 .nii)" in beside.report.lines


def test_damaged_volumes_are_refused_or_left_out(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / f"{i}.nii.gz", voxels(i))
    (tmp_path / "0.nii.gz").write_bytes(b"damaged")
    whole = (tmp_path / "2.nii.gz").read_bytes()
    (tmp_path / "2.nii.gz").write_bytes(whole[: len(whole) // 2])
    refused(at("nifti", tmp_path, image_size=8), "0.nii.gz cannot be read as a NIfTI volume")
    images = loaded(tmp_path, on_bad_file="skip")
    assert len(images) == 14
    assert images.metadata.groups["patient"].unique().tolist() == [0, 2]
    assert images.report.facts["left_out"] == [str(tmp_path / "0.nii.gz")]
    assert len(images.report.facts["skipped"]) == 7
    for path in tmp_path.glob("*.gz"):
        path.write_bytes(b"damaged")
    refused(replace(at("nifti", tmp_path), on_bad_file="skip"), "none of its volumes can be read")


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 7, 2)])
def test_volumes_of_another_shape_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    write(tmp_path / "a.nii", voxels(shape=shape))
    refused(at("nifti", tmp_path), f"a.nii has shape {shape}; expected a volume of three axes")
    write(tmp_path / "a.nii", voxels(shape=(8, 8, 7, 1)))
    assert len(loaded(tmp_path)) == 7


def test_what_shows_nothing_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.nii", np.full((8, 8, 7), 5, np.int16))
    refused(at("nifti", tmp_path), "a.nii has the same value in all voxels")
    write(tmp_path / "b.nii", voxels())
    refused(at("nifti", tmp_path), "`image_size` = 0", "a.nii are 8 x 8 and those of b.nii 12 x 10")
    refused(at("nifti", tmp_path / "a.nii"), "this is not a folder")


def test_slices_that_are_none_are_refused() -> None:
    assert slices(DataConfig(slices=(60.0, 99.0))) == (60, 99)
    for values in ((3.0,), (4.0, 3.0), (-1.0, 3.0), (0.5, 3.0), (1.0, 2.0, 3.0)):
        with pytest.raises(SettingError, match=r"^`data.slices` = .*\[60,99\]$"):
            slices(DataConfig(slices=values))
