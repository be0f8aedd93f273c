"""Pickles as CIFAR's authors publish them, of which nothing is run."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import checked_labels, data_error

SHAPE = (3, 32, 32)


def read_names(config: DataConfig, path: Path, key: str, expected: str) -> tuple[str, ...]:
    """The names of the classes, which the file has under `key`.

    Raises:
        DataError: it is missing, damaged or of another content, or would run code.
    """
    try:
        return tuple(name.decode() for name in _unpickle(config, path, expected)[key.encode()])
    except (KeyError, TypeError, AttributeError, UnicodeError):
        raise data_error(config, f"{path.name} has no `{key}`; expected {expected}") from None


def read_batch(config: DataConfig, path: Path, key: str, num_classes: int, expected: str) -> tuple[Tensor, Tensor]:
    """Pixels (n, 3, 32, 32), uint8, and labels (n,) of one batch, which has these under `key`.

    Raises:
        DataError: as `read_names`.
    """
    content = _unpickle(config, path, expected)
    try:
        pixels, labels = content[b"data"].uint8(), np.array(content[key.encode()])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise data_error(config, f"{path.name} is no batch of CIFAR ({error!r}); expected {expected}") from None
    if not pixels.size or pixels.shape[1:] != (math.prod(SHAPE),):
        raise data_error(
            config, f"the `data` of {path.name} have shape {pixels.shape}; expected (N, {math.prod(SHAPE)})"
        )
    images = torch.from_numpy(pixels.reshape(-1, *SHAPE))
    return images, checked_labels(config, labels, len(images), num_classes)


def _unpickle(config: DataConfig, path: Path, expected: str) -> Any:
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="bytes").load()
    except FileNotFoundError:
        raise data_error(config, f"there is no file {path.absolute()}; expected {expected}") from None
    except Exception as error:  # a damaged pickle raises almost anything
        raise data_error(config, f"{path.name} is damaged or no file of CIFAR ({error}); expected {expected}") from None


class _Dtype:
    """A type of numpy's, by its name only."""

    def __init__(self, name: bytes | str, *_: object) -> None:
        self.name = name.decode() if isinstance(name, bytes) else name

    def __setstate__(self, _: object) -> None:
        """Byte order and the like, of which one byte has none."""


class _Array:
    """What a pickle tells of an array: numpy itself is not given the file, which may lie about its memory."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self._shape, self._dtype, self._by_column, self._data = state

    def uint8(self) -> NDArray[np.uint8]:
        """The array.

        Raises:
            ValueError: it is of another type, or not of the shape that it claims.
        """
        if self._dtype.name != "u1":
            raise ValueError(f"its type is {self._dtype.name}; expected uint8")
        flat = np.frombuffer(bytearray(self._data), np.uint8)
        return flat.reshape(self._shape, order="F" if self._by_column else "C")


def _empty_array(*_: object) -> _Array:
    return _Array()


def _latin1(text: str, *_: object) -> bytes:
    return text.encode("latin1")


#: All that a pickle may name, and what is called instead: numpy's parts under their old and new names, and the way in
#: which Python 3 writes bytes for Python 2.
ALLOWED: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")
        return ALLOWED[module, name]
