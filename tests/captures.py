"""What a capture of a SuperNode's connections to its SuperLink holds: what was pushed, and traces of images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supercore.inflatable.inflatable_object import get_object_type_from_object_content
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from numpy.typing import NDArray

Bytes = bytes | bytearray
Floats = NDArray[np.float32]
#: Windows that are compared at once.
CHUNK = 1 << 16
#: What values may be written as: each type, and how it is read.
READINGS: dict[str, tuple[int, Callable[[Bytes], NDArray[np.generic]]]] = {
    **{
        name: (np.dtype(name).itemsize, lambda data, name=name: np.frombuffer(data, name))  # type: ignore[misc]
        for name in ("uint8", "int8", "<i4", "<i8", "<f2", "<f4", "<f8")
    },
    "bfloat16": (2, lambda data: (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)),
}


def pushed(captures: Iterable[Bytes], all_captures: Iterable[Bytes]) -> list[RecordDict]:
    """The contents of all messages that were pushed, by Flower's own reading.

    What a SuperLink has of another node already is not pushed again: it is in one of all captures.
    """
    objects, own = dict[str, bytes](), set[str]()
    for path, body in calls(all_captures):
        if path == "push-object":
            request = PushObjectRequest.FromString(body)
            objects[request.object_id] = request.object_content
    for path, body in calls(captures):
        if path == "push-object":
            own.add(PushObjectRequest.FromString(body).object_id)
        elif path == "push-messages":
            messages = PushMessagesRequest.FromString(body).messages_list
            assert not [message.error.reason for message in messages if message.HasField("error")]
    whole = [key for key in own if get_object_type_from_object_content(objects[key]) == "Message"]
    inflated = [inflate_object_from_contents(key, objects, keep_object_contents=True) for key in whole]
    return [message.content for message in inflated if isinstance(message, Message)]


def calls(captures: Iterable[Bytes]) -> Iterator[tuple[str, bytes]]:
    """The last part of the path, and the body, of each request of some connections."""
    for capture in captures:
        stream = bytes(capture)
        while stream:
            head, _, rest = stream.partition(b"\r\n\r\n")
            length = re.search(rb"(?im)^content-length: *(\d+)", head)
            size = int(length[1]) if length else 0
            yield head.split()[1].decode().rpartition("/")[2], rest[:size]
            stream = rest[size:]


def shapes(content: RecordDict) -> dict[str, object]:
    """The names in a message's records, and the type and shape of arrays."""
    return {
        name: {key: (own.dtype, own.shape) for key, own in record.items()}
        if isinstance(record, ArrayRecord)
        else sorted(record)
        for name, record in content.items()
    }


def likeness(capture: Bytes, wanted: NDArray[np.generic]) -> float:
    """The largest |correlation| of any row of `wanted` with as many values in a row, wherever and however written.

    It is 1 where a row is there, scaled and shifted by whatever numbers, in any of `READINGS`, or from any byte on.
    """
    rows = _centred(wanted.reshape(len(wanted), -1).astype(np.float32))
    most = 0.0
    for size, read in READINGS.values():
        for start in range(size):
            part = capture[start : start + (len(capture) - start) // size * size]
            # What is no number is in no row.
            with np.errstate(over="ignore", invalid="ignore"):
                values = np.clip(np.nan_to_num(read(part).astype(np.float32), posinf=0, neginf=0), -1e6, 1e6)
            most = max(most, _most_alike(values, rows))
    return most


def _most_alike(values: Floats, rows: Floats) -> float:
    if len(values) < rows.shape[1]:
        return 0.0
    windows = np.lib.stride_tricks.sliding_window_view(values, rows.shape[1])
    return max(
        float(np.abs(_centred(windows[first : first + CHUNK]) @ rows.T).max())
        for first in range(0, len(windows), CHUNK)
    )


def _centred(rows: Floats) -> Floats:
    """Rows of mean 0 and norm 1, or 0 where all values are alike."""
    centred = rows - rows.mean(1, keepdims=True)
    scale = np.abs(centred).max(1, keepdims=True)
    scaled = np.divide(centred, scale, out=np.zeros_like(centred), where=scale > 0)
    norm = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: Floats = np.divide(scaled, norm, out=np.zeros_like(scaled), where=norm > 0)
    return unit
