"""The MNIST family, in the idx files that torchvision keeps below <root>/<name>/raw."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from collafuse_flwr.config import DataConfig
from collafuse_flwr.data.checks import checked_labels, existing_path, refusal
from collafuse_flwr.data.images import Source


def load_idx(config: DataConfig) -> Source:
    """Read the training images of `mnist`, `fashion_mnist` or `kmnist`; the t10k pair where there is no training pair.

    The files are read by torchvision's functions and not by its classes, which insist on all four files.

    Raises:
        DataError: files are missing, damaged or do not belong together.
    """
    from torchvision.datasets import mnist  # noqa: PLC0415 - slow, and other data sets do not need it

    dataset = {"mnist": mnist.MNIST, "fashion_mnist": mnist.FashionMNIST, "kmnist": mnist.KMNIST}[config.dataset]
    folder, classes = dataset.__name__, tuple(dataset.classes)
    expected = (
        f"the folder that holds {folder}/raw/train-images-idx3-ubyte and train-labels-idx1-ubyte (uncompressed), "
        f"as torchvision.datasets.{folder}(root, download=True) leaves it"
    )
    raw = existing_path(config, expected) / folder / "raw"
    train, test = _pair(raw, "train"), _pair(raw, "t10k")
    # A training pair that is half there is a mistake to report, not a reason to train on the test images.
    paths = train if any(map(os.path.exists, train)) or not all(map(os.path.exists, test)) else test

    def read(path: Path, reader: Callable[[str], Tensor]) -> Tensor:
        if not os.path.isfile(path):
            raise refusal(config, f"there is no file {path.absolute()}; expected {expected}")
        try:
            return reader(str(path))
        except Exception as error:  # a damaged file raises what torchvision, torch or Python stumble over first
            problem = f"{path.name} is empty, damaged or no idx file of this kind ({error!r}); expected {expected}"
            raise refusal(config, problem) from None

    images, labels = read(paths[0], mnist.read_image_file).unsqueeze(1), read(paths[1], mnist.read_label_file)
    labels = checked_labels(config, labels.numpy(), len(images), len(classes))
    return Source(labels, classes, lambda keep: images[keep])


def _pair(raw: Path, split: str) -> tuple[Path, Path]:
    return raw / f"{split}-images-idx3-ubyte", raw / f"{split}-labels-idx1-ubyte"
