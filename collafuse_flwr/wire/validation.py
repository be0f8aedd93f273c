"""What an upload must be, as agreed with its client at the start, and the check that it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.privacy.release import QUANTISED_MAX, Upload
from collafuse_flwr.wire.codec import Weights

#: What normalised activations and their gradients stay far below; far above, one client's rows would make the batch
#: statistics of all rows overflow.
LARGEST_ACTIVATION = 1e4
#: What weights and running statistics stay far below.
LARGEST_WEIGHT = 1e4
#: Of samples that are handed over: they are of images in [-1, 1] and standard normal noise.
LARGEST_SAMPLE = 1e3
_WIRE_DTYPES = {"int8": np.int8, "float16": np.float16, "float32": np.float32}


@dataclass(frozen=True)
class UploadSpec:
    """What was agreed with a client at the start, which every upload of its must fit.

    `labels` says whether they travel: attributes where there is a number of them, classes otherwise.
    """

    rows: int
    channels: int
    size: int
    num_classes: int
    labels: bool
    dtype: str
    alpha_bar: float
    num_attributes: int = 0

    @property
    def bound(self) -> float:
        """Largest magnitude believed: an image in [-1, 1] and eight standard deviations of its noise."""
        return math.sqrt(self.alpha_bar) + 8 * math.sqrt(1 - self.alpha_bar)


def check_upload(upload: Upload, contract: UploadSpec) -> None:
    """Hold an upload against what was agreed, before it touches the pool.

    Raises:
        UploadError: its shape, type, range or labels do not fit, or it is not finite.
    """
    shape = (contract.rows, contract.channels, contract.size, contract.size)
    dtype = np.dtype(_WIRE_DTYPES[contract.dtype])
    if upload.x_k.dtype != dtype or upload.x_k.shape != shape:
        raise UploadError(f"`upload.x_k` must be {dtype} of shape {shape}, not {upload.x_k.dtype} {upload.x_k.shape}")
    if not np.isfinite(upload.scale) or upload.scale <= 0 or (dtype != np.int8 and upload.scale != 1):
        raise UploadError(f"`upload.scale` = {upload.scale} must be finite and positive, and 1 for floats")
    largest = _largest(upload, dtype)
    # Quantisation rounds up by half a step at most, and float16 by its own last bit.
    if not largest <= contract.bound * (1 + 1 / QUANTISED_MAX):
        raise UploadError(
            f"`upload.x_k` reaches {largest:g}; at this cut it must be finite and within {contract.bound:g}"
        )
    _check_labels(upload.labels, contract)


def check_weights(what: str, weights: Weights, wanted: Weights) -> None:
    """Hold weights that a client sent against those that were requested: `wanted` has their names, shapes and types.

    Raises:
        UploadError: a name is missing or unknown, a shape or type differs, or a value is not finite, too large, or
            a negative variance.
    """
    if weights.keys() != wanted.keys():
        missing, unknown = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
        raise UploadError(f"`{what}` lacks {_some(missing)} and has {_some(unknown)} that were not requested")
    for name, value in weights.items():
        like = wanted[name]
        if (value.shape, value.dtype) != (like.shape, like.dtype):
            raise UploadError(
                f"`{what}.{name}` must be {like.dtype} {tuple(like.shape)}, not {value.dtype} {tuple(value.shape)}"
            )
        check_finite(what, {name: value})
        if name.endswith("running_var") and bool((value < 0).any()):
            raise UploadError(f"`{what}.{name}` holds variances, which must not be negative")


def received_start(arrays: ArrayRecord | None) -> Weights | None:
    """The weights that a fresh denoiser is to start from, as they came.

    Raises:
        UploadError: one of them is not finite, or too large.
    """
    if not arrays:
        return None
    weights = dict(arrays.to_torch_state_dict())
    check_finite("backbone", weights)
    return weights


def check_finite(what: str, weights: Weights) -> None:
    """Hold weights, from whomever they come, to be numbers that one can go on with.

    Raises:
        UploadError: a value is not finite, or too large.
    """
    for name, value in weights.items():
        largest = _largest_of(value) if value.is_floating_point() else 0.0
        # Written so that nan, which compares with nothing, is refused as well.
        if not largest <= LARGEST_WEIGHT:
            raise UploadError(f"`{what}.{name}` must be finite and within {LARGEST_WEIGHT:g}, and reaches {largest:g}")


def check_samples(x_k: Tensor, labels: Tensor | None, shape: tuple[int, int, int, int]) -> None:
    """Hold samples that a server hands over to be of the shape of the images, bounded, and with labels that there are.

    Args:
        x_k: the samples.
        labels: one class each, int64, or, where there are attributes, 0 or 1 for each, uint8; or None.
        shape: channels and side of the images, classes, and attributes that networks are conditioned on.

    Raises:
        UploadError: they are not.
    """
    channels, size, classes, attributes = shape
    # Written so that nan, which compares with nothing, is refused as well.
    if x_k.dtype != torch.float32 or x_k.shape[1:] != (channels, size, size) or not _largest_of(x_k) <= LARGEST_SAMPLE:
        raise UploadError(f"`x_k` in float32, of the shape of the images, and within {LARGEST_SAMPLE:g}")
    if labels is None:
        return
    dtype, own = (torch.uint8, (len(x_k), attributes)) if attributes else (torch.int64, (len(x_k),))
    fit = labels.dtype == dtype and labels.shape == own and labels.numel()
    if not fit or int(labels.min()) < 0 or int(labels.max()) > (1 if attributes else classes - 1):
        raise UploadError("`labels` of the samples are one class each, or all attributes")


def check_synthetic(images: Tensor, labels: Tensor | None, shape: tuple[int, int, int, int], most: int) -> None:
    """Hold synthetic images that a server sends to train on to be at most so many, of the shape of the client's own.

    Args:
        images: (n, channels, size, size), uint8.
        labels: one class each, (n,), int64.
        shape: channels and side of the images, classes, and attributes.
        most: of n.

    Raises:
        UploadError: they are not, or have no labels that there are.
    """
    channels, size, classes, _ = shape
    row = (channels, size, size)
    if images.dtype != torch.uint8 or images.shape[1:] != row or not 1 <= len(images) <= most:
        got = f"{images.dtype} of shape {tuple(images.shape)}"
        raise UploadError(f"`synthetic` must be uint8, 1 to {most} images of shape {row}, not {got}")
    fit = labels is not None and labels.dtype == torch.int64 and labels.shape == images.shape[:1]
    if labels is None or not fit or int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise UploadError(f"`labels` of synthetic images must be int64, one each, in 0..{classes - 1}")


def check_activations(tensors: dict[str, Tensor], wanted: dict[str, torch.Size]) -> None:
    """Hold what a client of a split GAN sent for a phase against the names and shapes that are due.

    Raises:
        UploadError: a name is missing or unknown, a shape differs, or a value is not finite or too large.
    """
    if tensors.keys() != wanted.keys():
        raise UploadError(f"`activations` must hold {', '.join(wanted)}, not {', '.join(tensors) or 'nothing'}")
    for name, x in tensors.items():
        if x.shape != wanted[name]:
            raise UploadError(f"`activations.{name}` must be of shape {tuple(wanted[name])}, not {tuple(x.shape)}")
        largest = _largest_of(x)
        # Written so that nan, which compares with nothing, is refused as well.
        if not largest <= LARGEST_ACTIVATION:
            must = f"must be finite and within {LARGEST_ACTIVATION:g}"
            raise UploadError(f"`activations.{name}` {must}, and reaches {largest:g}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "nothing"


def _largest_of(x: Tensor) -> float:
    """The largest magnitude in a tensor; nan if there is one in it."""
    return float(torch.stack(x.aminmax()).abs().max()) if x.numel() else 0.0


def _largest(upload: Upload, dtype: np.dtype[Any]) -> float:
    """The largest magnitude in an upload; nan if there is one in it."""
    if dtype == np.int8:
        return int(np.abs(upload.x_k.astype(np.int16)).max()) * upload.scale
    return float(np.abs(upload.x_k.astype(np.float32)).max())


def _check_labels(labels: np.ndarray[Any, Any] | None, contract: UploadSpec) -> None:
    if not contract.labels:
        if labels is not None:
            raise UploadError(
                "`upload.labels` must not be sent when `upload.share_labels` is false or nothing is conditioned on"
            )
        return
    attributes = contract.num_attributes
    dtype = np.dtype(np.uint8 if attributes else np.int64)
    shape = (contract.rows, attributes) if attributes else (contract.rows,)
    if labels is None or labels.dtype != dtype or labels.shape != shape:
        raise UploadError(f"`upload.labels` must be {dtype} of shape {shape}")
    last = 1 if attributes else contract.num_classes - 1
    if labels.min() < 0 or labels.max() > last:
        raise UploadError(f"`upload.labels` must be in 0..{last}")
