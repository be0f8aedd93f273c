"""The messages of the split GAN (HuSCF-GAN): activations and gradients at the cuts, and a client's own blocks.

Labels and images have no field here, and neither have latent codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.gan.split_gan.ops import Tensors
from collafuse_flwr.gan.split_gan.precision import DTYPES, pack, unpack
from collafuse_flwr.wire.codec import pack_numbers, read_array, reject_unknown_records, unpack_numbers
from collafuse_flwr.wire.fedavg import Weights, pack_named_weights, received_weights, uploaded_weights

#: What stands behind a tensor's name where the exponent of its scale travels.
EXPONENT = ".exponent"
#: bfloat16 is no type of numpy's: its bits travel as int16.
_NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": np.int16}


@dataclass(frozen=True)
class SplitRequest:
    """One phase of one batch: its tensors, and at the start of a round the client's cuts and new weights.

    `step` counts the batches of the round; `phase` is one of gan/halves.py.
    """

    round: int
    step: int
    phase: str
    cuts: str
    tensors: Tensors
    weights: Weights


@dataclass(frozen=True)
class EndRoundRequest:
    """The end of a round: the last gradient that is due, unless there is none."""

    round: int
    cuts: str
    tensors: Tensors


@dataclass(frozen=True)
class GanTrainMetrics:
    """What a client says about a round: losses of its last batch, work, seconds, floating-point operations."""

    loss: float
    generator_loss: float
    steps: int
    image_updates: int
    seconds: float
    flops: int


@dataclass(frozen=True)
class EndRoundReply:
    """The end of a round: numbers, and the client's blocks to be averaged."""

    numbers: GanTrainMetrics
    weights: Weights


@dataclass(frozen=True)
class GenerateHeadRequest:
    """For samples: how many, and the weights of the client's blocks of the generator to make them with."""

    round: int
    count: int
    cuts: str
    weights: Weights


@dataclass(frozen=True)
class GenerateTailRequest:
    """The server's half of samples, for the client to finish."""

    round: int
    cuts: str
    gt: Tensor


def pack_split_request(request: SplitRequest, dtype: str) -> RecordDict:
    """A SplitRequest as records, tensors in `dtype`."""
    record = ConfigRecord({"round": request.round, "step": request.step, "phase": request.phase, "cuts": request.cuts})
    return pack_named_weights(
        with_tensors(RecordDict({"request": record}), request.tensors, dtype), weights=request.weights
    )


def unpack_split_request(content: RecordDict) -> SplitRequest:
    """Read a SplitRequest back (on the client)."""
    config = content.config_records["request"]
    return SplitRequest(
        round=int(cast(int, config["round"])),
        step=int(cast(int, config["step"])),
        phase=str(config["phase"]),
        cuts=str(config["cuts"]),
        tensors=received_tensors(content),
        weights=received_weights(content, "weights"),
    )


def pack_activations(tensors: Tensors, dtype: str) -> RecordDict:
    """A client's answer to a phase, or its generator's head of samples."""
    return with_tensors(RecordDict(), tensors, dtype)


def unpack_activations(content: RecordDict, dtype: str) -> Tensors:
    """Read such an answer back; names and shapes are checked apart, by `check_activations`.

    Raises:
        UploadError: a record is missing, unknown or malformed.
    """
    reject_unknown_records(content, {"activations"})
    record = content.array_records.get("activations")
    if record is None:
        raise UploadError("a reply must hold `activations`")
    arrays = {name: read_array(f"activations.{name}", array) for name, array in record.items()}
    tensors = {}
    for name, values in arrays.items():
        if name.endswith(EXPONENT):
            continue
        exponent = arrays.get(name + EXPONENT)
        if values.dtype != _NUMPY[dtype]:
            raise UploadError(f"`activations.{name}` must be {dtype}, not {values.dtype}")
        if dtype == "float32":
            tensors[name] = unpack((_as_torch(values, dtype), 0))
            continue
        if exponent is None or exponent.shape != (1,) or exponent.dtype != np.int64:
            raise UploadError(f"`activations.{name}` must come with one int64 exponent")
        power = int(exponent[0])
        if abs(power) > 200:
            raise UploadError(f"`activations.{name}{EXPONENT}` = {power} must be within 200 of 0")
        tensors[name] = unpack((_as_torch(values, dtype), power))
    wanted = {*tensors, *(name + EXPONENT for name in tensors if dtype != "float32")}
    if arrays.keys() != wanted:
        raise UploadError(f"`activations` must hold {', '.join(sorted(wanted))}, not {', '.join(sorted(arrays))}")
    return tensors


def pack_end_round_request(request: EndRoundRequest, dtype: str) -> RecordDict:
    """A EndRoundRequest as records."""
    record = ConfigRecord({"round": request.round, "cuts": request.cuts})
    return with_tensors(RecordDict({"request": record}), request.tensors, dtype)


def unpack_end_round_request(content: RecordDict) -> EndRoundRequest:
    """Read a EndRoundRequest back (on the client)."""
    config = content.config_records["request"]
    return EndRoundRequest(int(cast(int, config["round"])), str(config["cuts"]), received_tensors(content))


def pack_end_round_reply(reply: EndRoundReply) -> RecordDict:
    """A EndRoundReply as records."""
    return pack_named_weights(pack_numbers(reply.numbers), weights=reply.weights)


def unpack_end_round_reply(content: RecordDict) -> EndRoundReply:
    """Read a EndRoundReply back; that they are the weights asked for is checked apart, by `check_weights`.

    Raises:
        UploadError: a record is missing, unknown or malformed.
    """
    reject_unknown_records(content, {"numbers", "weights"})
    return EndRoundReply(unpack_numbers(content, GanTrainMetrics), uploaded_weights(content, "weights"))


def pack_generate_head_request(request: GenerateHeadRequest) -> RecordDict:
    """A GenerateHeadRequest as records."""
    record = ConfigRecord({"round": request.round, "count": request.count, "cuts": request.cuts})
    return pack_named_weights(RecordDict({"request": record}), weights=request.weights)


def unpack_generate_head_request(content: RecordDict) -> GenerateHeadRequest:
    """Read a GenerateHeadRequest back (on the client)."""
    config = content.config_records["request"]
    numbers = int(cast(int, config["round"])), int(cast(int, config["count"]))
    return GenerateHeadRequest(*numbers, str(config["cuts"]), received_weights(content, "weights"))


def pack_generate_tail_request(request: GenerateTailRequest, dtype: str) -> RecordDict:
    """A GenerateTailRequest as records."""
    record = ConfigRecord({"round": request.round, "cuts": request.cuts})
    return with_tensors(RecordDict({"request": record}), {"gt": request.gt}, dtype)


def unpack_generate_tail_request(content: RecordDict) -> GenerateTailRequest:
    """Read a GenerateTailRequest back (on the client)."""
    config = content.config_records["request"]
    return GenerateTailRequest(int(cast(int, config["round"])), str(config["cuts"]), received_tensors(content)["gt"])


def with_tensors(content: RecordDict, tensors: Tensors, dtype: str) -> RecordDict:
    """Add a record of tensors to a message, unless there are none."""
    arrays: dict[str, Array] = {}
    for name, x in tensors.items():
        values, exponent = pack(x.cpu(), dtype)
        arrays[name] = Array((values.view(torch.int16) if dtype == "bfloat16" else values).contiguous().numpy())
        if dtype != "float32":
            arrays[name + EXPONENT] = Array(np.array([exponent], dtype=np.int64))
    if arrays:
        content["activations"] = ArrayRecord(arrays)
    return content


def received_tensors(content: RecordDict) -> Tensors:
    """What the server sent, whatever its precision."""
    record = content.array_records.get("activations")
    arrays = {} if record is None else {name: array.numpy() for name, array in record.items()}
    by_numpy = {np.dtype(kind): name for name, kind in _NUMPY.items()}
    none = np.zeros(1, dtype=np.int64)
    return {
        name: unpack((_as_torch(values, by_numpy[values.dtype]), int(arrays.get(name + EXPONENT, none)[0])))
        for name, values in arrays.items()
        if not name.endswith(EXPONENT)
    }


def _as_torch(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]], dtype: str) -> Tensor:
    tensor = torch.from_numpy(values.copy())
    return tensor.view(DTYPES[dtype]) if dtype == "bfloat16" else tensor
