"""The MNIST family, in the idx files that torchvision keeps below <root>/<name>/raw."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from collafuse_flwr.data.images import LazyImageDataset
from collafuse_flwr.data.loaders.imagefolder import list_classes
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import checked_labels, data_error, existing_path, require_split

#: The classes of notMNIST, which torchvision does not know.
LETTERS = tuple("ABCDEFGHIJ")
#: Two files of notMNIST's own download that were damaged when it was published; no other file is passed over.
DAMAGED = (
    "A/RGVtb2NyYXRpY2FCb2xkT2xkc3R5bGUgQm9sZC50dGY=.png",
    "F/Q3Jvc3NvdmVyIEJvbGRPYmxpcXVlLnR0Zg==.png",
)


def load_idx(config: DataConfig) -> LazyImageDataset:
    """Read images of `mnist`, `fashion_mnist` or `kmnist`: where there is no training pair, those of the t10k pair.

    Raises:
        DataError: files are missing, damaged or do not belong together.
    """
    from torchvision.datasets import mnist  # noqa: PLC0415 - slow, and other data sets do not need it

    dataset = {"mnist": mnist.MNIST, "fashion_mnist": mnist.FashionMNIST, "kmnist": mnist.KMNIST}[config.name]
    folder = dataset.__name__
    expected = (
        f"the folder that holds {folder}/raw/train-images-idx3-ubyte and train-labels-idx1-ubyte (uncompressed), "
        f"as torchvision.datasets.{folder}(root, download=True) leaves it"
    )
    return _read_pair(config, existing_path(config, expected) / folder / "raw", tuple(dataset.classes), expected)


def load_notmnist(config: DataConfig) -> LazyImageDataset:
    """Read notMNIST from idx files as `load_idx` does, or list the folders of letters that its own download holds.

    Raises:
        DataError: as `load_idx`, or there is not a folder of each letter, or (when it is read) an image is damaged.
    """
    expected = (
        "the folder that holds notMNIST_small/A to J, as notMNIST_small.tar.gz is unpacked, or the uncompressed idx "
        "files notMNIST/raw/train-images-idx3-ubyte and train-labels-idx1-ubyte (or t10k-...)"
    )
    root = existing_path(config, expected)
    if os.path.isdir(root / "notMNIST") or not os.path.isdir(root / "notMNIST_small"):
        return _read_pair(config, root / "notMNIST" / "raw", LETTERS, expected)
    source = list_classes(config, root / "notMNIST_small", expected, DAMAGED)
    if source.class_names != LETTERS:
        raise data_error(config, f"notMNIST_small has folders {', '.join(source.class_names)}; expected {expected}")
    return source


def _read_pair(config: DataConfig, raw: Path, classes: tuple[str, ...], expected: str) -> LazyImageDataset:
    """Read images and their labels by torchvision's functions, not by its classes, which insist on all four files."""
    from torchvision.datasets import mnist  # noqa: PLC0415 - as above

    train, test = _pair(raw, "train"), _pair(raw, "t10k")
    require_split(config, config.split != "val", ("train", "test (t10k)"))
    # A training pair that is half there is a mistake to report, not a reason to train on the test images.
    whole = any(map(os.path.exists, train)) or not all(map(os.path.exists, test))
    paths = train if whole and config.split == "train" else test

    def read(path: Path, reader: Callable[[str], Tensor]) -> Tensor:
        if not os.path.isfile(path):
            raise data_error(config, f"there is no file {path.absolute()}; expected {expected}")
        try:
            return reader(str(path))
        except Exception as error:  # a damaged file raises what torchvision, torch or Python stumble over first
            problem = f"{path.name} is empty, damaged or no idx file of this kind ({error!r}); expected {expected}"
            raise data_error(config, problem) from None

    images, labels = read(paths[0], mnist.read_image_file).unsqueeze(1), read(paths[1], mnist.read_label_file)
    labels = checked_labels(config, labels.numpy(), len(images), len(classes))
    return LazyImageDataset(labels, classes, lambda keep: images[keep], lambda _: paths)


def _pair(raw: Path, split: str) -> tuple[Path, Path]:
    return raw / f"{split}-images-idx3-ubyte", raw / f"{split}-labels-idx1-ubyte"
