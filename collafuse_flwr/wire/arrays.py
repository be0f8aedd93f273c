"""Tensors as Flower arrays, read with suspicion; activations in 16 bits travel beside a power of two."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.gan.split_gan.ops import Tensors
from collafuse_flwr.gan.split_gan.precision import DTYPES, pack, unpack

#: What stands behind a tensor's name where the exponent of its scale travels.
EXPONENT = ".exponent"
LARGEST_EXPONENT = 200
#: bfloat16 is no type of numpy's: its bits travel as int16.
_NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": np.int16}


def read_array(name: str, array: Array) -> NDArray[Any]:
    """An array as it arrived; whatever bytes stand in its place are refused (UploadError)."""
    try:
        values = array.numpy()
    except Exception as error:
        raise UploadError(f"`{name}` cannot be read ({type(error).__name__})") from error
    if not isinstance(values, np.ndarray):
        raise UploadError(f"`{name}` must be one array, not {type(values).__name__}")
    return values


def read_tensor(name: str, array: Array) -> Tensor:
    """A tensor of its own memory, in the type that it was sent in; what are no numbers is refused (UploadError)."""
    values = read_array(name, array)
    try:
        if np.issubdtype(values.dtype, np.number):
            return torch.from_numpy(np.array(values))
    except (TypeError, ValueError):
        # Torch knows neither every width nor every order of bytes.
        pass
    raise UploadError(f"`{name}` must hold numbers, not {values.dtype}")


def encode_activations(tensors: Tensors, dtype: str) -> ArrayRecord:
    """Tensors in float32, or in 16 bits, each with the exponent of its scale (gan/split_gan/precision.py)."""
    arrays: dict[str, Array] = {}
    for name, x in tensors.items():
        values, exponent = pack(x.cpu(), dtype)
        arrays[name] = Array((values.view(torch.int16) if dtype == "bfloat16" else values).contiguous().numpy())
        if dtype != "float32":
            arrays[name + EXPONENT] = Array(np.array([exponent], dtype=np.int64))
    return ArrayRecord(arrays)


def decode_activations(record_name: str, record: ArrayRecord, dtype: str) -> Tensors:
    """Such tensors in float32.

    Raises:
        UploadError: one is of another type than agreed, or lacks its exponent, or this is out of range.
    """
    arrays = {name: read_array(f"{record_name}.{name}", array) for name, array in record.items()}
    tensors = {
        name: _decoded(f"{record_name}.{name}", values, arrays.get(name + EXPONENT), dtype)
        for name, values in arrays.items()
        if not name.endswith(EXPONENT)
    }
    wanted = {*tensors, *(name + EXPONENT for name in tensors if dtype != "float32")}
    if arrays.keys() != wanted:
        raise UploadError(f"`{record_name}` must hold {', '.join(sorted(wanted))}, not {', '.join(sorted(arrays))}")
    return tensors


def _decoded(name: str, values: NDArray[Any], exponent: NDArray[Any] | None, dtype: str) -> Tensor:
    if values.dtype != _NUMPY[dtype]:
        raise UploadError(f"`{name}` must be {dtype}, not {values.dtype}")
    tensor = torch.from_numpy(values.copy())
    if dtype == "float32":
        return unpack((tensor, 0))
    if exponent is None or exponent.shape != (1,) or exponent.dtype != np.int64:
        raise UploadError(f"`{name}` must come with one int64 exponent")
    power = int(exponent[0])
    if abs(power) > LARGEST_EXPONENT:
        raise UploadError(f"`{name}{EXPONENT}` = {power} must be within {LARGEST_EXPONENT} of 0")
    return unpack((tensor.view(DTYPES[dtype]), power))
