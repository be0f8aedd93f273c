"""CollaFuse's messages, and the introduction that opens every strategy's run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.privacy.release import Upload
from collafuse_flwr.wire.codec import pack_numbers, read_array, reject_unknown_records, unpack_numbers


@dataclass(frozen=True)
class ClientInfo:
    """A client's introduction; its cut step is agreed here for the whole run.

    `num_attributes` are those that networks are conditioned on: 0 unless `condition` is attributes.
    """

    partition_id: int
    cut_step: int
    timesteps: int
    num_images: int
    channels: int
    size: int
    num_classes: int
    num_attributes: int


@dataclass(frozen=True)
class TrainRequest:
    """One round's work: whether to upload, and the backbone's weights when the client starts from them.

    The weights are one object for all clients: a copy for each would be gigabytes where there are a thousand.
    """

    round: int
    num_rounds: int
    want_upload: bool
    backbone: ArrayRecord | None = None

    def weights(self) -> dict[str, Tensor] | None:
        """The backbone's weights as tensors."""
        return dict(self.backbone.to_torch_state_dict()) if self.backbone else None


@dataclass(frozen=True)
class TrainMetrics:
    """What a client says about its training: mean loss (0 without steps), work, seconds, floating-point operations."""

    loss: float
    steps: int
    image_updates: int
    seconds: float
    flops: int


@dataclass(frozen=True)
class TrainReply:
    """A client's answer to a TrainRequest."""

    numbers: TrainMetrics
    upload: Upload | None = None


@dataclass(frozen=True)
class SampleHandoff:
    """Samples at the client's cut for it to finish; labels where the backbone was conditioned on them."""

    round: int
    x_k: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class EvaluateReply:
    """What a client says about its finished samples and its held-out images.

    `held_out_loss` is its denoiser's loss there (0 if it has none), `kernel_distance` that of pixels between its
    samples and its held-out images (unbiased; 0 if either is a single image), `flops_per_image` what one image cost it
    to finish, `releases` how many noised copies of each image have left it, `bits` the Gaussian bound on what they
    tell (may be infinite), and `dp_steps` the steps of DP-SGD that its denoiser has ever taken.
    """

    num_samples: int
    held_out_loss: float
    kernel_distance: float
    seconds: float
    flops_per_image: int
    releases: int
    bits: float
    dp_steps: int


def pack_train_request(request: TrainRequest) -> RecordDict:
    """A TrainRequest as records."""
    content = RecordDict(
        {
            "request": ConfigRecord(
                {"round": request.round, "num-rounds": request.num_rounds, "want-upload": request.want_upload}
            )
        }
    )
    if request.backbone is not None:
        content["backbone"] = request.backbone
    return content


def unpack_train_request(content: RecordDict) -> TrainRequest:
    """Read a TrainRequest back (on the client)."""
    config = content.config_records["request"]
    return TrainRequest(
        round=int(cast(int, config["round"])),
        num_rounds=int(cast(int, config["num-rounds"])),
        want_upload=bool(config["want-upload"]),
        backbone=content.array_records.get("backbone"),
    )


def pack_train_reply(reply: TrainReply) -> RecordDict:
    """A TrainReply as records."""
    content = pack_numbers(reply.numbers)
    if reply.upload is not None:
        content["upload"] = ArrayRecord(_upload_arrays(reply.upload))
    return content


def unpack_train_reply(content: RecordDict) -> TrainReply:
    """Read a TrainReply back; the upload's content is checked apart, by `check_upload`.

    Raises:
        UploadError: a record is missing, unknown or malformed.
    """
    reject_unknown_records(content, {"numbers", "upload"})
    numbers = unpack_numbers(content, TrainMetrics)
    record = content.array_records.get("upload")
    return TrainReply(numbers, None if record is None else _read_upload(record))


def unpack_evaluate_reply(content: RecordDict) -> EvaluateReply:
    """Read an EvaluateReply back.

    Raises:
        UploadError: a number is missing, unexpected, of the wrong type or not finite.
    """
    reject_unknown_records(content, {"numbers"})
    return unpack_numbers(content, EvaluateReply, infinite=("bits",))


def unpack_client_info(content: RecordDict) -> ClientInfo:
    """Read a Hello back.

    Raises:
        UploadError: a number is missing, unexpected or of the wrong type.
    """
    reject_unknown_records(content, {"numbers"})
    return unpack_numbers(content, ClientInfo)


def pack_handoff(handoff: SampleHandoff) -> RecordDict:
    """A SampleHandoff as records; samples travel as float32, they are few."""
    arrays = {"x_k": Array(handoff.x_k.numpy())}
    if handoff.labels is not None:
        arrays["labels"] = Array(handoff.labels.numpy())
    return RecordDict({"hand-over": ArrayRecord(arrays), "request": ConfigRecord({"round": handoff.round})})


def unpack_handoff(content: RecordDict) -> SampleHandoff:
    """Read a SampleHandoff back (on the client)."""
    arrays = content.array_records["hand-over"]
    labels = torch.from_numpy(arrays["labels"].numpy().copy()) if "labels" in arrays else None
    round_ = int(cast(int, content.config_records["request"]["round"]))
    return SampleHandoff(round_, torch.from_numpy(arrays["x_k"].numpy().copy()), labels)


def _upload_arrays(upload: Upload) -> dict[str, Array]:
    arrays = {"x_k": Array(upload.x_k), "scale": Array(np.float32(upload.scale).reshape(1))}
    if upload.labels is not None:
        arrays["labels"] = Array(upload.labels)
    return arrays


def _read_upload(record: ArrayRecord) -> Upload:
    unknown = set(record) - {"x_k", "scale", "labels"}
    if unknown or not {"x_k", "scale"} <= set(record):
        raise UploadError(f"`upload` must hold x_k, scale and at most labels, not {', '.join(sorted(record))}")
    arrays = {name: read_array(f"upload.{name}", array) for name, array in record.items()}
    scale = arrays["scale"]
    if scale.shape != (1,) or scale.dtype != np.float32:
        raise UploadError(f"`upload.scale` must be one float32, not {scale.dtype} of shape {scale.shape}")
    return Upload(arrays["x_k"], float(scale[0]), arrays.get("labels"))
