from dataclasses import replace
from pathlib import Path

import pytest
import torch

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.loaders.celeba import load_celeba
from tests.unit.data.sets import ATTRIBUTES, at, in_chunks, refused, write_celeba


@pytest.mark.parametrize("inner", ["", "celeba"])
def test_faces_have_attributes_and_identities(inner: str, tmp_path: Path) -> None:
    colours = write_celeba(tmp_path / inner)
    images = load_images(at("celeba", tmp_path, image_size=8), seed=0)
    assert images.images.shape == (6, 3, 8, 8)
    assert (images.images[:, :, 4, 4] - torch.from_numpy(colours).float()).abs().max() <= 3
    assert images.labels.tolist() == [0] * 6
    assert images.num_classes == 1
    assert images.metadata.attribute_names == ATTRIBUTES
    assert images.metadata.attributes is not None
    assert images.metadata.attributes.tolist() == [[i & 1, i >> 1 & 1, i >> 2] for i in range(6)]
    assert images.metadata.groups["identity"].tolist() == [2, 0, 2, 1, 0, 2]
    assert torch.equal(in_chunks(at("celeba", tmp_path, image_size=8), 4), images.images)


def test_an_attribute_makes_classes(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    config = at("celeba", tmp_path, image_size=8)
    images = load_images(replace(config, class_attribute="Smiling"), seed=0)
    assert images.class_names == ("not Smiling", "Smiling")
    assert images.labels.tolist() == [0, 0, 1, 1, 0, 0]
    with pytest.raises(SettingError, match=r"^`data.class_attribute` = 'smiling' .* Male, Smiling, Young$"):
        load_images(replace(config, class_attribute="smiling"), seed=0)


def test_only_training_images_are_used_where_splits_are_listed(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    names = [f"{i + 1:06}.jpg" for i in range(6)]
    rows = [f"{name} {split}\n" for name, split in zip(names, [1, 0, 2, 0, 0, 1], strict=True)]
    (tmp_path / "list_eval_partition.txt").write_text("".join(reversed(rows)))
    (tmp_path / "img_align_celeba" / "000001.jpg").unlink()
    source = load_celeba(at("celeba", tmp_path))
    assert [path.name for path in source.files(torch.arange(3))] == ["000002.jpg", "000004.jpg", "000005.jpg"]
    assert source.metadata.groups["identity"].tolist() == [0, 1, 0]
    assert source.metadata.attributes is not None
    assert source.metadata.attributes.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    (tmp_path / "list_eval_partition.txt").write_text("".join(f"{name} 2\n" for name in names))
    for split in ("train", "val"):
        with pytest.raises(SettingError, match=rf"^`data.split` = '{split}' .* in it is test$"):
            load_celeba(replace(at("celeba", tmp_path), split=split))


def as_csv(path: Path, header: str, skipped: int = 0) -> None:
    """A list with commas, as others distribute it, in place of the authors'."""
    rows = [",".join(line.split()) for line in path.read_text().splitlines()[skipped:]]
    path.with_suffix(".csv").write_text("\n".join([header, *rows]))
    path.unlink()


@pytest.mark.parametrize("zeros", [False, True])
def test_lists_may_be_tables_and_folders_nested(zeros: bool, tmp_path: Path) -> None:
    colours = write_celeba(tmp_path)
    (tmp_path / "img_align_celeba").rename(tmp_path / "inner")
    (tmp_path / "img_align_celeba").mkdir()
    (tmp_path / "inner").rename(tmp_path / "img_align_celeba" / "img_align_celeba")
    expected = load_celeba(at("celeba", tmp_path))
    as_csv(tmp_path / "list_attr_celeba.txt", ",".join(["image_id", *ATTRIBUTES]), skipped=2)
    if zeros:
        table = tmp_path / "list_attr_celeba.csv"
        table.write_text(table.read_text().replace("-1", "0"))
    as_csv(tmp_path / "identity_CelebA.txt", "image_id,identity")
    rows = [f"{i + 1:06}.jpg {i // 4}" for i in range(6)]
    (tmp_path / "list_eval_partition.txt").write_text("\n".join(rows))
    as_csv(tmp_path / "list_eval_partition.txt", "image_id,partition")
    images = load_images(replace(at("celeba", tmp_path, image_size=8), class_attribute="Smiling"), seed=0)
    assert (images.images[:, :, 4, 4] - torch.from_numpy(colours[:4]).float()).abs().max() <= 3
    assert images.metadata.attribute_names == ATTRIBUTES
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.metadata.attributes is not None
    assert expected.metadata.attributes is not None
    assert torch.equal(images.metadata.attributes, expected.metadata.attributes[:4])
    assert images.metadata.groups["identity"].tolist() == [2, 0, 2, 1]
    assert len(load_celeba(replace(at("celeba", tmp_path), split="val")).labels) == 2


def test_identities_may_be_missing(tmp_path: Path) -> None:
    """Archives that others made hold all lists but this one."""
    write_celeba(tmp_path)
    (tmp_path / "identity_CelebA.txt").unlink()
    source = load_celeba(at("celeba", tmp_path))
    assert not source.metadata.groups
    assert source.report.lines == ("there is no identity_CelebA.txt: which images are of one person is not known",)


@pytest.mark.parametrize(
    ("name", "before", "after", "message"),
    [
        ("list_attr_celeba.txt", "6\n", "7\n", "has 6 rows, but '7' in its first line"),
        ("list_attr_celeba.txt", "6\n", "", "has 5 rows"),
        ("list_attr_celeba.txt", "000006.jpg  1", "000006.jpg  1 1", "list_attr_celeba.txt"),
        ("list_attr_celeba.txt", "000006.jpg  1 -1  1", "000006.jpg", "list_attr_celeba.txt"),
        ("list_attr_celeba.txt", "000002.jpg  1", "000002.jpg  0", "must give 3 values, 1 or -1"),
        ("list_attr_celeba.txt", "000002.jpg  1", "000002.jpg  x", "list_attr_celeba.txt cannot be read"),
        ("list_attr_celeba.txt", " Young", "", "must give 2 values, 1 or -1, to each of 6 images"),
        ("identity_CelebA.txt", "000003.jpg 2880\n", "", "does not list the image '000003.jpg'"),
        ("identity_CelebA.txt", "000003.jpg 2880", "000003.jpg", "a row other than"),
        ("identity_CelebA.txt", "000003.jpg 2880", "000003.jpg she", "a row other than"),
    ],
)
def test_wrong_lists_are_refused(name: str, before: str, after: str, message: str, tmp_path: Path) -> None:
    write_celeba(tmp_path)
    text = (tmp_path / name).read_text()
    assert before in text
    (tmp_path / name).write_text(text.replace(before, after, 1))
    refused(at("celeba", tmp_path), name, message)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    config = at("celeba", tmp_path, image_size=8)
    refused(at("celeba", tmp_path), "`image_size` = 0", "218 x 178")
    image = tmp_path / "img_align_celeba" / "000004.jpg"
    image.write_bytes(image.read_bytes()[:300])
    refused(config, "000004.jpg cannot be read as an image")
    image.unlink()
    refused(config, "there is no file", "000004.jpg")
    for name in ("list_attr_celeba.txt", "identity_CelebA.txt"):
        write_celeba(tmp_path)
        (tmp_path / name).write_bytes(b"\xff\xfe\xff")
        refused(config, name, "it holds no text")
    (tmp_path / "list_attr_celeba.txt").unlink()
    refused(config, "list_attr_celeba.txt", "No such file", "expected")
