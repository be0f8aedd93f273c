"""The messages of strategies that average clients' weights; CollaFuse has none of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.wire.codec import pack_numbers, read_array, reject_unknown_records, unpack_numbers
from collafuse_flwr.wire.collafuse import SampleHandoff, TrainMetrics, pack_handoff, unpack_handoff

#: Weights by their name in the network's state dict.
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class WeightsRequest:
    """One round's work: weights to go on from (empty: the client's own), and which to send back afterwards.

    `part` names the part of the network that is wanted (collafuse_flwr/parts.py), `want_averaged` asks for its averaged
    weights too, because this round is evaluated.
    """

    round: int
    num_rounds: int
    weights: Weights
    part: str
    want_averaged: bool


@dataclass(frozen=True)
class WeightsReply:
    """A client's answer: what was asked for of its trained and of its averaged weights."""

    numbers: TrainMetrics
    weights: Weights
    averaged: Weights


@dataclass(frozen=True)
class WeightsHandoff:
    """What to generate from, and the federation's averaged weights to do it with (empty: the client's own)."""

    handoff: SampleHandoff
    averaged: Weights


def pack_weights_request(request: WeightsRequest) -> RecordDict:
    """A WeightsRequest as records."""
    record = ConfigRecord({"round": request.round, "num-rounds": request.num_rounds})
    record["part"], record["want-averaged"] = request.part, request.want_averaged
    return pack_named_weights(RecordDict({"request": record}), weights=request.weights)


def unpack_weights_request(content: RecordDict) -> WeightsRequest:
    """Read a WeightsRequest back (on the client)."""
    config = content.config_records["request"]
    return WeightsRequest(
        round=int(cast(int, config["round"])),
        num_rounds=int(cast(int, config["num-rounds"])),
        weights=received_weights(content, "weights"),
        part=str(config["part"]),
        want_averaged=bool(config["want-averaged"]),
    )


def pack_weights_reply(reply: WeightsReply) -> RecordDict:
    """A WeightsReply as records."""
    return pack_named_weights(pack_numbers(reply.numbers), weights=reply.weights, averaged=reply.averaged)


def unpack_weights_reply(content: RecordDict) -> WeightsReply:
    """Read a WeightsReply back; that they are the weights asked for is checked apart, by `check_weights`.

    Raises:
        UploadError: a record is missing, unknown or malformed.
    """
    reject_unknown_records(content, {"numbers", "weights", "averaged"})
    numbers = unpack_numbers(content, TrainMetrics)
    return WeightsReply(numbers, uploaded_weights(content, "weights"), uploaded_weights(content, "averaged"))


def pack_weights_handoff(handoff: WeightsHandoff) -> RecordDict:
    """A WeightsHandoff as records."""
    return pack_named_weights(pack_handoff(handoff.handoff), averaged=handoff.averaged)


def unpack_weights_handoff(content: RecordDict) -> WeightsHandoff:
    """Read a WeightsHandoff back (on the client)."""
    return WeightsHandoff(unpack_handoff(content), received_weights(content, "averaged"))


def merge(first: RecordDict, second: RecordDict) -> RecordDict:
    """Two messages in one (hybrid): all records of both, with one `request` for both."""
    merged = RecordDict({**first, **second})
    if "request" in first and "request" in second:
        merged["request"] = ConfigRecord({**first.config_records["request"], **second.config_records["request"]})
    return merged


def split_hybrid_reply(content: RecordDict) -> tuple[RecordDict, RecordDict]:
    """The TrainReply and the WeightsReply in a merged reply; what belongs to neither is in both, to be refused."""
    return (
        RecordDict({name: record for name, record in content.items() if name not in ("weights", "averaged")}),
        RecordDict({name: record for name, record in content.items() if name != "upload"}),
    )


def pack_named_weights(content: RecordDict, **weights: Weights) -> RecordDict:
    """Add records of weights to a message, those that are not empty."""
    for name, values in weights.items():
        if values:
            content[name] = ArrayRecord({key: Array(value.cpu().numpy()) for key, value in values.items()})
    return content


def received_weights(content: RecordDict, name: str) -> Weights:
    """Such a record read back (on the client); empty if there is none."""
    record = content.array_records.get(name)
    return {} if record is None else dict(record.to_torch_state_dict())


def uploaded_weights(content: RecordDict, name: str) -> Weights:
    """Such a record read back on the server; empty if there is none.

    Raises:
        UploadError: what stands there are no numbers.
    """
    record = content.array_records.get(name)
    if record is None:
        return {}
    return {key: _as_torch(f"{name}.{key}", read_array(f"{name}.{key}", array)) for key, array in record.items()}


def _as_torch(what: str, values: np.ndarray[Any, Any]) -> Tensor:
    try:
        if np.issubdtype(values.dtype, np.number):
            return torch.from_numpy(np.array(values))
    except (TypeError, ValueError):
        # Torch knows neither every width nor every order of bytes.
        pass
    raise UploadError(f"`{what}` must hold numbers, not {values.dtype}")
