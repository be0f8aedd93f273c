"""What messages are made of: numbers, arrays and refusals, read with suspicion."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from collafuse_flwr.core.errors import UploadError

M = TypeVar("M")
_ARRAYS = ("upload", "weights", "averaged", "activations")
_REPLY_RECORDS = {"numbers": MetricRecord} | dict.fromkeys(_ARRAYS, ArrayRecord)


@dataclass(frozen=True)
class ClientError:
    """A client's one-line reason for not doing what was asked."""

    reason: str


def pack_numbers(numbers: object) -> RecordDict:
    """A flat dataclass of numbers as one metric record."""
    values = {f.name: getattr(numbers, f.name) for f in fields(cast(Any, numbers))}
    return RecordDict({"numbers": MetricRecord(values)})


def unpack_numbers(content: RecordDict, kind: type[M], *, infinite: tuple[str, ...] = ()) -> M:
    """Read such a record back; numbers named in `infinite` may be infinite, none may be nan.

    Raises:
        UploadError: a number is missing, unexpected, of the wrong type or not finite.
    """
    record = content.metric_records.get("numbers")
    wanted = {f.name: f.type for f in fields(cast(Any, kind))}
    if record is None or set(record) != set(wanted):
        raise UploadError(
            f"`numbers` must hold exactly {', '.join(wanted)}, not {', '.join(record or {}) or 'nothing'}"
        )
    for key, value in record.items():
        if isinstance(value, list) or (wanted[key] == "int" and not isinstance(value, int)):
            raise UploadError(f"`numbers.{key}` = {value!r} must be one number of type {wanted[key]}")
        if not (np.isfinite(value) or (key in infinite and value > 0)):
            raise UploadError(f"`numbers.{key}` = {value!r} must be finite")
    return kind(**{key: value if wanted[key] == "int" else float(cast(float, value)) for key, value in record.items()})


def pack_client_error(refusal: ClientError) -> RecordDict:
    """A Refusal as records."""
    return RecordDict({"refusal": ConfigRecord({"reason": refusal.reason})})


def unpack_client_error(content: RecordDict) -> ClientError | None:
    """The Refusal in a reply, or None."""
    record = content.config_records.get("refusal")
    return None if record is None else ClientError(str(record.get("reason", "no reason given")))


def count_bytes(content: RecordDict) -> int:
    """The bytes of a message's records, as they travel."""
    return sum(record.count_bytes() for record in content.values())


def read_array(name: str, array: Array) -> NDArray[Any]:
    """An array as it arrived; whatever bytes stand in its place are refused (UploadError)."""
    try:
        values = array.numpy()
    except Exception as error:
        raise UploadError(f"`{name}` cannot be read ({type(error).__name__})") from error
    if not isinstance(values, np.ndarray):
        raise UploadError(f"`{name}` must be one array, not {type(values).__name__}")
    return values


def reject_unknown_records(content: RecordDict, allowed: set[str]) -> None:
    """Refuse (UploadError) records that a reply must not hold, or that are of another kind."""
    unknown = set(content) - allowed
    if unknown:
        raise UploadError(f"a reply may hold {', '.join(sorted(allowed))}, not {', '.join(sorted(unknown))}")
    for name, record in content.items():
        if not isinstance(record, _REPLY_RECORDS[name]):
            raise UploadError(f"`{name}` must be {_REPLY_RECORDS[name].__name__}, not {type(record).__name__}")
