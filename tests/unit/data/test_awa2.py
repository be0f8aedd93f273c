from pathlib import Path

import pytest
import torch

from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.loaders.awa2 import load_awa2
from tests.unit.data.sets import at, in_chunks, refused, write_awa2


@pytest.mark.parametrize("inner", ["", "Animals_with_Attributes2"])
def test_animals_have_the_attributes_of_their_class(inner: str, tmp_path: Path) -> None:
    colours = write_awa2(tmp_path / inner)
    images = load_images(at("awa2", tmp_path, image_size=8), seed=0)
    assert images.images.shape == (4, 3, 8, 8)
    assert (images.images[:, :, 4, 4] - torch.from_numpy(colours).float()).abs().max() <= 3
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.class_names == ("antelope", "grizzly+bear")
    assert images.metadata.attribute_names == ("black", "white", "hooves")
    assert images.metadata.attributes is not None
    assert images.metadata.attributes.tolist() == [[0, 1, 1]] * 2 + [[1, 0, 0]] * 2
    assert torch.equal(in_chunks(at("awa2", tmp_path, image_size=8), 3), images.images)
    files = load_awa2(at("awa2", tmp_path)).files(torch.tensor([1, 2]))
    assert [path.name for path in files] == ["antelope_00001.jpg", "grizzly+bear_00002.jpg"]


@pytest.mark.parametrize("inner", ["", "JPEGImages"])
def test_folders_alone_are_classes_without_attributes(inner: str, tmp_path: Path) -> None:
    colours = write_awa2(tmp_path)
    for path in tmp_path.glob("*.txt"):
        path.unlink()
    images = load_images(at("awa2", tmp_path if inner else tmp_path / "JPEGImages", image_size=8), seed=0)
    assert (images.images[:, :, 4, 4] - torch.from_numpy(colours).float()).abs().max() <= 3
    assert images.class_names == ("antelope", "grizzly+bear")
    assert images.metadata.attributes is None
    assert any("the classes are the folders, without attributes" in line for line in images.report.lines)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "1\tantelope\n3\tgrizzly+bear\n", "row 2 of classes.txt is '3 grizzly+bear'"),
        ("classes.txt", "1\tantelope\n2\tantelope\n", "gives a name twice"),
        ("classes.txt", "1\tantelope\n2\tzebra\n", "there are no images (.jpg) in"),
        ("classes.txt", "", "classes.txt is empty"),
        ("predicates.txt", "black\n", "row 1 of predicates.txt is 'black'"),
        ("predicates.txt", "1\tblack\n", "2 rows (classes) of 1 values"),
        ("predicate-matrix-binary.txt", "0 1 1\n", "2 rows (classes) of 3 values"),
        ("predicate-matrix-binary.txt", "0 1 1\n1 0\n", "2 rows (classes) of 3 values"),
        ("predicate-matrix-binary.txt", "0 1 1\n1 0 2\n", "0 or 1"),
    ],
)
def test_wrong_lists_are_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    write_awa2(tmp_path)
    (tmp_path / name).write_text(text)
    refused(at("awa2", tmp_path), message)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    write_awa2(tmp_path)
    config = at("awa2", tmp_path, image_size=8)
    refused(at("awa2", tmp_path), "`image_size` = 0", "antelope_00000.jpg is 20 x 30")
    image = tmp_path / "JPEGImages" / "antelope" / "antelope_00001.jpg"
    image.write_bytes(image.read_bytes()[:300])
    refused(config, "antelope_00001.jpg cannot be read as an image")
    for name in ("classes.txt", "predicates.txt", "predicate-matrix-binary.txt"):
        (tmp_path / name).unlink()
        refused(config, name, "No such file", "expected")
        write_awa2(tmp_path)
