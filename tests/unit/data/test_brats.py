import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.loaders.brats import load_brats2020
from tests.unit.data.sets import at, in_chunks, refused, write_brats


def volume(shape: tuple[int, ...] = (12, 12, 110), seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(0, 1000, shape, dtype=np.int16)


def grey(slices: NDArray[Any]) -> NDArray[np.uint8]:
    """What axial slices (L, P, S) become: their 99.9 % quantile above 0 is white."""
    brightest = np.quantile(slices[slices > 0].astype(np.float64), 0.999)
    return np.rint(np.clip(slices / brightest, 0, 1) * 255).astype(np.uint8).transpose(2, 1, 0)


@pytest.mark.parametrize("inner", ["", "MICCAI_BraTS2020_TrainingData"])
def test_slices_are_read_by_patient(inner: str, tmp_path: Path) -> None:
    first, second = volume(seed=1), 3 * volume(seed=2)
    write_brats(tmp_path / inner, "002", second, ".nii")
    path = write_brats(tmp_path / inner, "001", first, ".nii.gz")
    (path.parent / "BraTS20_Training_001_flair.nii.gz").write_bytes(b"not read")
    images = load_images(at("brats2020", tmp_path), seed=0)
    assert images.images.shape == (80, 1, 12, 12)
    for patient, voxels in enumerate((first, second)):
        difference = images.images[40 * patient :][:40, 0].numpy().astype(int) - grey(voxels[:, :, 60:100])
        assert np.abs(difference).max() <= 1  # rounded from float32
    assert images.metadata.groups["patient"].tolist() == [0] * 40 + [1] * 40
    assert images.metadata.group_key == "patient"
    assert images.num_classes == 1
    assert torch.equal(in_chunks(at("brats2020", tmp_path), 7), images.images)
    drawn = load_images(at("brats2020", tmp_path, image_size=6, max_images=10), seed=0)
    assert drawn.images.shape == (10, 1, 6, 6)
    assert list(load_brats2020(at("brats2020", tmp_path)).files(torch.tensor([3, 39]))) == [path]


@pytest.mark.parametrize("signs", [(-1, -1, 1), (1, 1, 1), (1, -1, -1)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_pictures_are_upright_as_radiologists_see_them(signs: tuple[int, ...], suffix: str, tmp_path: Path) -> None:
    # A marker at the patient's front right in slice 61, whichever way the volume is stored.
    x, y, z = (0 if signs[0] < 0 else 11, 0 if signs[1] < 0 else 11, 61 if signs[2] > 0 else 110 - 1 - 61)
    voxels = np.zeros((12, 12, 110), np.int16)
    voxels[x, y, z] = 500
    write_brats(tmp_path, "001", voxels, suffix, signs)
    images = load_images(at("brats2020", tmp_path), seed=0).images
    assert images.nonzero().tolist() == [[1, 0, 0, 0]]  # top left
    assert images.max() == 255


def test_axes_may_be_in_another_order(tmp_path: Path) -> None:
    voxels = volume()
    path = write_brats(tmp_path, "001", voxels)
    upright = load_images(at("brats2020", tmp_path), seed=0).images
    affine = np.diag([-1.0, -1, 1, 1])[:, [2, 0, 1, 3]]
    nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 0, 1), affine), path)
    assert torch.equal(load_images(at("brats2020", tmp_path), seed=0).images, upright)


def test_voxels_below_0_are_black_and_the_brightest_are_cut_off(tmp_path: Path) -> None:
    voxels = np.full((40, 40, 110), 100, np.float32)
    voxels[:, :20], voxels[0, 0] = -50, np.nan
    voxels[39, 39, 70] = 1e6
    write_brats(tmp_path, "001", voxels)
    images = load_images(at("brats2020", tmp_path), seed=0).images[:, 0]
    assert (images[:, :20] == 0).all()
    assert (images[:, 20:] == 255).all()


def test_grades_are_classes(tmp_path: Path) -> None:
    for patient in ("001", "002"):
        write_brats(tmp_path, patient, volume())
    mapping = tmp_path / "name_mapping.csv"
    mapping.write_text(
        "Grade,BraTS_2019_subject_ID,BraTS_2020_subject_ID\nLGG,NA,BraTS20_Training_001\nHGG,x,BraTS20_Training_002\n"
    )
    images = load_images(at("brats2020", tmp_path), seed=0)
    assert images.class_names == ("HGG", "LGG")
    assert images.labels.tolist() == [1] * 40 + [0] * 40
    text = mapping.read_text()
    for before, after in (("LGG", "NA"), ("_001", "_003"), ("Grade", "grade"), ("2020", "2021")):
        mapping.write_text(text.replace(before, after))
        refused(at("brats2020", tmp_path), "name_mapping.csv gives BraTS20_Training_001 the Grade", "HGG or LGG")


@pytest.mark.parametrize(
    ("shape", "message"),
    [((12, 12, 99), "shape (12, 12, 99)"), ((12, 12), "shape (12, 12)"), ((12, 12, 110, 2), "(12, 12, 110, 2)")],
)
def test_volumes_of_another_shape_are_refused(shape: tuple[int, ...], message: str, tmp_path: Path) -> None:
    write_brats(tmp_path, "001", volume())
    write_brats(tmp_path, "002", volume(shape))
    refused(at("brats2020", tmp_path), "BraTS20_Training_002_t1.nii.gz", message, "at least 100 axial slices")


def test_volumes_of_several_sizes_need_image_size(tmp_path: Path) -> None:
    write_brats(tmp_path, "001", volume())
    write_brats(tmp_path, "002", volume((14, 14, 110)))
    refused(at("brats2020", tmp_path), "`image_size` = 0", "12 x 12", "14 x 14")
    assert len(load_images(at("brats2020", tmp_path, image_size=8), seed=0)) == 80


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_damaged_and_missing_volumes_are_refused(suffix: str, tmp_path: Path) -> None:
    path = write_brats(tmp_path, "001", volume(), suffix)
    whole = path.read_bytes()
    # At last, cut short behind the slices that are used.
    for damaged in (b"", b"text", whole[:100], whole[: len(whole) // 2], whole[:-20]):
        path.write_bytes(damaged)
        refused(at("brats2020", tmp_path), path.name, "cannot be read as a NIfTI volume")
    path.unlink()
    refused(at("brats2020", tmp_path), "no patient has a T1 volume; expected", "_t1.nii.gz (or .nii)")


def test_the_only_t1_volume_is_taken_whatever_its_name_and_who_has_none_is_left_out(tmp_path: Path) -> None:
    """One segmentation of the set is named after another study, and copies of the set lack files."""
    paths = [write_brats(tmp_path, f"{i:03}", volume(seed=i), ".nii") for i in range(1, 5)]
    expected = load_images(at("brats2020", tmp_path), seed=0).images
    paths[1].rename(paths[1].parent / "W39_1998.09.19_T1.nii")
    (paths[1].parent / "W39_1998.09.19_t1ce.nii").write_bytes(b"not read")
    paths[2].unlink()
    rows = [f"HGG,BraTS20_Training_{i:03}" for i in (1, 2, 4)]
    (tmp_path / "name_mapping.csv").write_text("\n".join(["Grade,BraTS_2020_subject_ID", *rows]))
    images = load_images(at("brats2020", tmp_path), seed=0)
    assert torch.equal(images.images, torch.cat([expected[:80], expected[120:]]))
    assert images.metadata.groups["patient"].tolist() == [0] * 40 + [1] * 40 + [2] * 40
    second, third = "BraTS20_Training_002", "BraTS20_Training_003"
    assert images.report.lines == (
        f"the T1 volume of {second} has another name, W39_1998.09.19_T1.nii, and is taken as the only one there",
        f"patients without a T1 volume are left out: {third}",
    )
    assert images.report.facts == {"left_out": [third]}
    (paths[1].parent / "other_t1.nii").write_bytes(b"not read")
    refused(at("brats2020", tmp_path), second, "several T1 volumes (W39_1998.09.19_T1.nii, other_t1.nii)")


def test_the_check_sum_of_gzip_is_compared(tmp_path: Path) -> None:
    path = write_brats(tmp_path, "001", volume())
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:])
    refused(at("brats2020", tmp_path), path.name, "CRC check failed")


def test_volumes_without_anything_in_the_slices_are_refused(tmp_path: Path) -> None:
    write_brats(tmp_path, "001", np.zeros((12, 12, 110), np.int16))
    refused(at("brats2020", tmp_path), "no voxel above 0 in slices 60 to 99")


def test_only_headers_are_read_at_first(tmp_path: Path) -> None:
    path = write_brats(tmp_path, "001", volume(), ".nii.gz")
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:2000]))
    assert len(load_brats2020(at("brats2020", tmp_path)).labels) == 40
    refused(at("brats2020", tmp_path), "cannot be read as a NIfTI volume")
