"""The classifier of the real images, trained once for a data set and kept: every run on it is measured by the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from collafuse_flwr.core.atomic_io import make_private_folder
from collafuse_flwr.core.errors import DamagedError
from collafuse_flwr.core.tensor_io import read_tensors, write_tensors
from collafuse_flwr.data.image_cache import forget_old_sets
from collafuse_flwr.evaluation.classifier import ImageClassifier, train_classifier

#: Goes up whenever the same images would give another classifier.
FORMAT = 1
#: Classifiers that are kept, those that were used last; each has a third of a megabyte.
KEPT = 32


def cached_classifier(
    folder: Path, images: Tensor, labels: Tensor, num_classes: int, seed: int, *, rows: Tensor, device: torch.device
) -> ImageClassifier:
    """What `train_classifier` gives for the images at `rows`, from `folder` if an earlier run has trained it.

    It is found by everything that its bits depend on: the images, the arguments, torch, and what it is trained on. A
    file that is damaged, or cannot be written, only costs the training.

    Args:
        folder: of the cache; it is as private as the images.
        images: as in `train_classifier`.
        labels: as in `train_classifier`.
        num_classes: as in `train_classifier`.
        seed: as in `train_classifier`.
        rows: (n,) int64, those of the images that are learnt from.
        device: where to train; the result is there.
    """
    path = folder / f"{_key(images, labels, num_classes, seed, rows, device)}.safetensors"
    try:
        weights, _ = read_tensors(path)
        path.touch()
    except (OSError, DamagedError):
        classifier = train_classifier(images, labels, num_classes, seed, rows=rows, device=device)
        _keep(path, classifier)
        return classifier
    classifier = ImageClassifier(images.shape[1], num_classes, images.shape[3])
    classifier.load_state_dict(weights)
    return classifier.to(device).eval().requires_grad_(False)


def _keep(path: Path, classifier: ImageClassifier) -> None:
    try:
        make_private_folder(path.parent)
        write_tensors(path, classifier.state_dict())
        forget_old_sets(path.parent, KEPT)
    except OSError:
        # The next run trains it again.
        return


def _key(images: Tensor, labels: Tensor, num_classes: int, seed: int, rows: Tensor, device: torch.device) -> str:
    """The name of a classifier: equal names have equal bits."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    parts = (FORMAT, torch.__version__, device.type, machine, torch.get_num_threads(), num_classes, seed, images.dtype)
    digest = hashlib.blake2b(repr((*parts, tuple(images.shape[1:]))).encode(), digest_size=16)
    for part in torch.split(rows, 4096):
        digest.update(images[part].contiguous().numpy().data)
        digest.update(labels[part].contiguous().numpy().data)
    return digest.hexdigest()
