"""Small messages, for tests of what crosses."""

from __future__ import annotations

import torch
from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from collafuse_flwr.privacy.release import Upload, UploadDtype, encode
from collafuse_flwr.wire.common import ClientInfo, EvaluateReply, TrainMetrics
from collafuse_flwr.wire.validation import UploadSpec

DTYPES: tuple[UploadDtype, ...] = ("int8", "float16", "float32")
SHAPE = (4, 1, 2, 2)
CONTRACT = UploadSpec(rows=4, channels=1, size=2, num_classes=3, labels=True, dtype="float32", alpha_bar=0.5)
HELLO = ClientInfo(
    partition_id=2, cut_step=20, timesteps=100, num_images=9, channels=3, size=8, num_classes=5, num_attributes=0
)
METRICS = TrainMetrics(loss=0.25, steps=7, image_updates=112, seconds=1.5, flops=2**40)
EVALUATION = EvaluateReply(
    num_samples=12,
    held_out_loss=0.1,
    kernel_distance=-0.003,
    seconds=2.5,
    flops_per_image=2**33,
    releases=3,
    bits=140.5,
    dp_steps=60,
)


def sent(content: RecordDict) -> RecordDict:
    """The content as it arrives: through Flower's own serialisation, to bytes and back."""
    return recorddict_from_proto(RecordDictProto.FromString(recorddict_to_proto(content).SerializeToString()))


def an_upload(dtype: UploadDtype = "float32", labels: bool = True) -> Upload:
    """Four images of 2 x 2 pixels, in three classes."""
    x_k = torch.linspace(-1, 1, 16).view(SHAPE)
    return encode(x_k, dtype, torch.tensor([0, 1, 2, 0]) if labels else None)
