"""Data sets as Hugging Face's `datasets` leaves them on disk."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.images import ImageSet
from tests.unit.data.sets import as_png, at, in_chunks, pixels, refused, write_folder, write_png

CLASSES = datasets.ClassLabel(names=["cat", "dog"])


def table(images: NDArray[np.uint8], **columns: tuple[list[Any], Any]) -> datasets.Dataset:
    """Images in a column `image`, beside columns of values and their type."""
    features = {"image": datasets.Image(), **{name: kind for name, (_, kind) in columns.items()}}
    rows = {"image": [as_png(image) for image in images], **{name: values for name, (values, _) in columns.items()}}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def save_to_disk(own: datasets.Dataset, folder: Path) -> None:
    own.save_to_disk(folder)


def save_splits(own: datasets.Dataset, folder: Path) -> None:
    datasets.DatasetDict({"train": own, "validation": own.select([0])}).save_to_disk(folder)


def save_parquet(own: datasets.Dataset, folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nconfigs:\n- data_files: https://example.org/elsewhere.parquet\n---\n")
    own.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    own.select([0]).to_parquet(folder / "data" / "validation-00000-of-00001.parquet")


def loaded(root: Path, **settings: Any) -> ImageSet:
    config = replace(at("hf", root), cache_path=str(root.parent / "cache"), **settings)
    return load_images(config, seed=0)


@pytest.mark.parametrize("save", [save_to_disk, save_splits, save_parquet])
def test_a_data_set_on_disk_is_read(save: Callable[[datasets.Dataset, Path], None], tmp_path: Path) -> None:
    written, root = pixels(9, 8, 8), tmp_path / "set"
    save(table(written, label=([1, 0, 0] * 3, CLASSES), hospital=(["x"] * 9, datasets.Value("string"))), root)
    images = loaded(root)
    assert np.array_equal(images.images[:, 0].numpy(), written)
    assert images.labels.tolist() == [1, 0, 0] * 3
    assert images.class_names == ("cat", "dog")
    assert images.report.lines == ("images of column image, classes of column label; not read: hospital",)
    assert torch.equal(in_chunks(replace(at("hf", root), cache_path=str(tmp_path / "cache")), 4), images.images)
    if save is save_to_disk:
        with pytest.raises(SettingError, match=r"^`data.split` = 'val' .* in it is train$"):
            loaded(root, split="val")
    else:
        assert len(loaded(root, split="val")) == 1


def test_a_folder_of_images_with_metadata_is_read(tmp_path: Path) -> None:
    """As the hub has sets of photographs: the classes are in a table beside the files."""
    written, root = pixels(4, 8, 8, 3), tmp_path / "set"
    for i, image in enumerate(written):
        write_png(root / "train" / f"{i}.png", image)
    rows = [json.dumps({"file_name": f"{i}.png", "animal": ("dog", "cat")[i % 2], "age": i}) for i in range(4)]
    (root / "train" / "metadata.jsonl").write_text("\n".join(rows))
    images = loaded(root, label_column="animal")
    assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), written)
    assert images.class_names == ("cat", "dog")
    assert images.labels.tolist() == [1, 0, 1, 0]
    write_folder(tmp_path / "plain")
    assert loaded(tmp_path / "plain").class_names == ("cat", "dog")


def test_columns_are_named_where_several_can_be_meant(tmp_path: Path) -> None:
    written, root = pixels(4, 8, 8), tmp_path / "set"
    own = table(written, fine=([0, 1, 0, 1], CLASSES), coarse=([1, 1, 0, 0], CLASSES))
    own = own.add_column("mask", [as_png(image) for image in written[::-1]], feature=datasets.Image())
    own.save_to_disk(root)
    with pytest.raises(SettingError, match=r"^`data.image_column` = '' .* one of image, mask, as several"):
        loaded(root)
    with pytest.raises(SettingError, match=r"^`data.label_column` = '' .* one of fine, coarse, as several"):
        loaded(root, image_column="mask")
    with pytest.raises(SettingError, match=r"^`data.label_column` = 'age' .* one of fine, coarse$"):
        loaded(root, image_column="mask", label_column="age")
    images = loaded(root, image_column="mask", label_column="coarse")
    assert np.array_equal(images.images[:, 0].numpy(), written[::-1])
    assert images.labels.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        ([2, 0, 1, 0], "int32", ("0", "1", "2")),
        (["b", "a", "c", "a"], "string", ("a", "b", "c")),
        ([True, False, True, True], "bool", ("False", "True")),
    ],
)
def test_classes_may_be_numbers_or_text(values: list[Any], kind: str, names: tuple[str, ...], tmp_path: Path) -> None:
    root = tmp_path / "set"
    table(pixels(4, 8, 8), target=(values, datasets.Value(kind))).save_to_disk(root)
    images = loaded(root)
    assert images.class_names == names
    assert [names[label] for label in images.labels] == [str(value) for value in values]
    named = loaded(root, class_names=(*names[::-1], "other"))
    assert [named.class_names[label] for label in named.labels] == [str(value) for value in values]
    with pytest.raises(SettingError, match=r"^`data.class_names` = "):
        loaded(root, class_names=names[1:])


def test_columns_of_patients_keep_their_images_together(tmp_path: Path) -> None:
    root, patients = tmp_path / "set", ["b", "a", "b", "c"]
    text = datasets.Value("string")
    table(pixels(4, 8, 8), Patient_ID=(patients, text), identity=([3, 3, 1, 1], datasets.Value("int64"))).save_to_disk(
        root
    )
    images = loaded(root)
    assert images.metadata.groups["patient"].tolist() == [1, 0, 1, 2]
    assert images.metadata.groups["identity"].tolist() == [1, 1, 0, 0]
    assert images.metadata.group_key == "patient"
    line = "images of column image, patient of column Patient_ID, identity of column identity"
    assert images.report.lines == (line,)
    table(pixels(2, 8, 8), patient=(["a", None], text)).save_to_disk(tmp_path / "lacking")
    refused(at("hf", tmp_path / "lacking"), "column patient has values that are neither", "or lacks some")


def test_images_are_read_as_others_are(tmp_path: Path) -> None:
    """Bytes without a type of their own, 16 bits of grey, and one that is damaged."""
    root = tmp_path / "set"
    values = np.arange(4 * 64, dtype=np.uint16).reshape(4, 8, 8) * 16
    content = [as_png(value)["bytes"] for value in values]
    datasets.Dataset.from_dict({"scan": [*content, b"damaged"]}).save_to_disk(root)
    images = loaded(root, on_bad_file="skip", image_size=8)
    assert images.class_names == ("unlabelled",)
    assert np.array_equal(images.images[:, 0].numpy(), np.round(np.arange(256).reshape(4, 8, 8)))
    assert images.report.facts["skipped"] == ["image 4 of data-00000-of-00001.arrow"]
    refused(replace(at("hf", root), cache_path=str(tmp_path / "cache")), "image 4 cannot be read as an image")


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "set"
    table(pixels(2, 8, 8), label=([-1, 0], CLASSES)).save_to_disk(root)
    refused(at("hf", root), "the labels go from -1 to 0; expected 0..1")
    empty = datasets.Features({"image": datasets.Value("binary")})
    (tmp_path / "none").mkdir()
    datasets.Dataset.from_dict({"image": []}, features=empty).to_parquet(tmp_path / "none" / "train.parquet")
    none = replace(at("hf", tmp_path / "none"), cache_path=str(tmp_path / "cache"))
    refused(none, "`datasets` cannot read it", "expected")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "text")
    refused(at("hf", tmp_path / "text"), "no column holds images, of text")
    (root / "data-00000-of-00001.arrow").write_bytes(b"damaged")
    refused(at("hf", root), "`datasets` cannot read it", "expected")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "train.parquet").write_bytes(b"damaged")
    config = replace(at("hf", tmp_path / "damaged"), cache_path=str(tmp_path / "cache"))
    refused(config, "`datasets` cannot read it", "expected")
