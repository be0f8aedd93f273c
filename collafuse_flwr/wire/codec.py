"""One codec for all messages: frozen dataclasses whose fields say, by their types, where in a RecordDict they travel.

| type of a field       | record                                                                                  |
| --------------------- | --------------------------------------------------------------------------------------- |
| int, float, bool, str | `config`, or `metrics` in a subclass of `Metrics`, where they are finite numbers         |
| Tensor                | `arrays`                                                                                |
| Metrics               | one of its own, named as the field is                                                   |
| Weights               | one of its own: tensors by name, in their own types; absent where there are none        |
| Activations           | likewise, in the precision that is agreed on (wire/arrays.py)                           |
| ArrayRecord           | one of its own, sent as it is: many messages may share it                               |
| any other dataclass   | one of its own, with an array for each of its fields                                    |

A field that may be None is absent where it is: a number that the owner of the images keeps to itself, for one. What
else a message holds is refused.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, cast, get_args, get_type_hints

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.wire.arrays import decode_activations, encode_activations, read_array, read_tensor

M = TypeVar("M")
#: Weights by their name in the network's state dict.
Weights = dict[str, Tensor]
Activations = Annotated[dict[str, Tensor], "in the agreed precision"]
#: A number of a `Metrics` that may be plus infinity.
Unbounded = Annotated[float, "may be infinite"]
_SCALARS = (int, float, bool, str, Unbounded)


@dataclass(frozen=True)
class Metrics:
    """A message, or a part of one, of numbers only."""


@dataclass(frozen=True)
class ClientError:
    """A client's one-line reason for refusing a request: the only reply with a `config` record."""

    reason: str


@dataclass(frozen=True)
class _Field:
    name: str
    hint: Any
    optional: bool
    record: str
    record_type: type[ArrayRecord | ConfigRecord | MetricRecord]


def encode(message: object, dtype: str = "float32") -> RecordDict:
    """A message as records, activations in `dtype`: float32, float16 or bfloat16."""
    content = RecordDict()
    grouped: dict[tuple[str, type[Any]], dict[str, Any]] = defaultdict(dict)
    for field in schema(cast(Any, type(message))):
        value = getattr(message, field.name)
        if field.record != field.name and value is not None:
            grouped[field.record, field.record_type][field.name] = _array(value) if field.hint is Tensor else value
        elif field.record == field.name and (record := _own_record(field, value, dtype)) is not None:
            content[field.name] = record
    for (name, record_type), values in grouped.items():
        content[name] = record_type(values)
    return content


def decode(kind: type[M], content: RecordDict, dtype: str = "float32") -> M:
    """Read a message back; whether arrays are those agreed on is checked apart (wire/validation.py).

    Raises:
        UploadError: a record or a value is missing, unknown, of the wrong type or not finite.
    """
    by_record: dict[str, list[_Field]] = defaultdict(list)
    for field in schema(cast(Any, kind)):
        by_record[field.record].append(field)
    if unknown := content.keys() - by_record.keys():
        allowed = ", ".join(sorted(by_record)) or "nothing"
        raise UploadError(f"`{kind.__name__}` may hold {allowed}, not {', '.join(sorted(unknown))}")
    values: dict[str, Any] = {}
    for name, group in by_record.items():
        record, wanted = content.get(name), group[0].record_type
        if record is not None and not isinstance(record, wanted):
            raise UploadError(f"`{name}` must be {wanted.__name__}, not {type(record).__name__}")
        if group[0].name == name:
            values[name] = _read_own(group[0], record, dtype)
        elif wanted is ArrayRecord:
            values |= _read_arrays(name, cast(ArrayRecord, record or ArrayRecord()), group)
        else:
            values |= _read_scalars(name, cast(ConfigRecord, record or {}), group)
    return kind(**values)


def client_error(content: RecordDict) -> ClientError | None:
    """The ClientError that stands in a reply's place, or None."""
    record = content.config_records.get("config")
    return None if record is None else ClientError(str(record.get("reason", "no reason given")))


def count_bytes(content: RecordDict) -> int:
    """The bytes of a message's records, as they travel."""
    return sum(record.count_bytes() for record in content.values())


@cache
def schema(kind: type[Any]) -> tuple[_Field, ...]:
    """The fields of a message, and where each travels."""
    return tuple(_field(kind, name, hint) for name, hint in get_type_hints(kind, include_extras=True).items())


def _field(kind: type[Any], name: str, hint: Any) -> _Field:
    optional = type(None) in get_args(hint)
    if optional:
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if hint in _SCALARS:
        scalars = ("metrics", MetricRecord) if issubclass(kind, Metrics) else ("config", ConfigRecord)
        return _Field(name, hint, optional, *scalars)
    own = MetricRecord if isinstance(hint, type) and issubclass(hint, Metrics) else ArrayRecord
    return _Field(name, hint, optional, "arrays" if hint is Tensor else name, own)


def _own_record(field: _Field, value: Any, dtype: str) -> ArrayRecord | MetricRecord | None:
    """The record of a field that has one of its own."""
    if value is None or value == {}:
        return None
    if field.hint is ArrayRecord:
        return cast(ArrayRecord, value)
    if field.record_type is MetricRecord:
        return MetricRecord({name: number for name, number in vars(value).items() if number is not None})
    if field.hint == Activations:
        return encode_activations(value, dtype)
    arrays = value if isinstance(value, dict) else vars(value)
    return ArrayRecord({name: _array(part) for name, part in arrays.items() if part is not None})


def _read_own(field: _Field, record: Any, dtype: str) -> Any:
    name, hint = field.name, field.hint
    if field.optional and record is None:
        return None
    if field.record_type is MetricRecord:
        return hint(**_read_scalars(name, record or {}, schema(hint)))
    if hint is ArrayRecord:
        return record
    record = record or ArrayRecord()
    if hint == Activations:
        return decode_activations(name, record, dtype)
    if hint == Weights:
        return {key: read_tensor(f"{name}.{key}", array) for key, array in record.items()}
    parts = [_Field(part, own, type(None) in get_args(own), name, ArrayRecord) for part, own in _hints(hint)]
    return hint(**_read_arrays(name, record, parts))


@cache
def _hints(kind: type[Any]) -> list[tuple[str, Any]]:
    return list(get_type_hints(kind).items())


def _array(value: Any) -> Array:
    if isinstance(value, Tensor):
        return Array(value.cpu().numpy())
    return Array(np.float32(value).reshape(1) if isinstance(value, float) else value)


def _read_arrays(name: str, record: ArrayRecord, wanted: list[_Field]) -> dict[str, Any]:
    """One array a field: a tensor, a numpy array, or a single float32."""
    must, may = ([f.name for f in wanted if f.optional is optional] for optional in (False, True))
    if not set(must) <= record.keys() or not record.keys() <= {*must, *may}:
        most = f" and at most {', '.join(may)}" if may else ""
        raise UploadError(f"`{name}` must hold {', '.join(must)}{most}, not {', '.join(sorted(record)) or 'nothing'}")
    values: dict[str, Any] = dict.fromkeys(may)
    for field in wanted:
        if field.name not in record:
            continue
        label, array = f"{name}.{field.name}", record[field.name]
        if field.hint is Tensor:
            values[field.name] = read_tensor(label, array)
            continue
        value = values[field.name] = read_array(label, array)
        if field.hint is float:
            if value.shape != (1,) or value.dtype != np.float32:
                raise UploadError(f"`{label}` must be one float32, not {value.dtype} of shape {value.shape}")
            values[field.name] = float(value[0])
    return values


def _read_scalars(name: str, record: Mapping[str, Any], wanted: tuple[_Field, ...] | list[_Field]) -> dict[str, Any]:
    """One value a field."""
    must = {field.name for field in wanted if not field.optional}
    if not must <= record.keys() <= {field.name for field in wanted}:
        keys, most = ", ".join(record) or "nothing", [field.name for field in wanted if field.optional]
        also = f" and at most {', '.join(most)}" if most else ""
        names = ", ".join(field.name for field in wanted if not field.optional)
        raise UploadError(f"`{name}` must hold exactly {names}{also}, not {keys}")
    values: dict[str, Any] = {}
    for field in wanted:
        if field.name not in record:
            values[field.name] = None
            continue
        value, kind = record[field.name], float if field.hint == Unbounded else field.hint
        if not isinstance(value, (float, int) if kind is float else kind) or (
            isinstance(value, bool) and kind is not bool
        ):
            raise UploadError(f"`{name}.{field.name}` = {value!r} must be one {kind.__name__}")
        if kind is float and not (math.isfinite(value) or (field.hint == Unbounded and value > 0)):
            raise UploadError(f"`{name}.{field.name}` = {value!r} must be finite")
        values[field.name] = kind(value)
    return values
