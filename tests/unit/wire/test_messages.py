"""What crosses: every message survives the network, and whatever does not fit the schema is refused with a reason."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import cast

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.privacy import release
from collafuse_flwr.privacy.release import Upload, UploadDtype
from collafuse_flwr.wire.codec import ClientError, client_error, count_bytes, decode, encode
from collafuse_flwr.wire.collafuse import CutReport, SampleHandoff, TrainReply, TrainRequest
from collafuse_flwr.wire.common import ClientInfo, EvaluateReply, TrainMetrics
from collafuse_flwr.wire.validation import check_upload
from tests.messages import CONTRACT, DTYPES, EVALUATION, HELLO, METRICS, SHAPE, an_upload, sent


def is_same(a: Upload, b: Upload) -> bool:
    same_labels = (
        np.array_equal(a.labels, b.labels) if a.labels is not None and b.labels is not None else a.labels is b.labels
    )
    return a.x_k.dtype == b.x_k.dtype and np.array_equal(a.x_k, b.x_k) and a.scale == b.scale and bool(same_labels)


# The schema itself.


def test_the_schema_has_these_fields_and_no_others() -> None:
    """Whoever adds a field here lets something new leave a client: noise, x_0, a seed or weights must never be one."""
    listed = {
        kind: {spec.name: str(spec.type) for spec in fields(kind)} for kind in (ClientInfo, TrainRequest, TrainMetrics)
    }
    assert listed[ClientInfo] == dict.fromkeys(
        ("partition_id", "cut_step", "timesteps", "num_images", "channels", "size", "num_classes", "num_attributes"),
        "int",
    )
    assert listed[TrainRequest] == {
        "round": "int",
        "num_rounds": "int",
        "want_upload": "bool",
        "backbone": "ArrayRecord | None",
        "held_cut": "int | None",
    }
    assert listed[TrainMetrics] == {
        "loss": "float | None",
        "steps": "int",
        "image_updates": "int",
        "seconds": "float | None",
        "flops": "int",
    }
    assert [spec.name for spec in fields(TrainReply)] == ["metrics", "upload", "recut"]
    assert [(spec.name, spec.type) for spec in fields(CutReport)] == [("cut", "int")]
    assert [spec.name for spec in fields(Upload)] == ["x_k", "scale", "labels"]
    assert [spec.name for spec in fields(SampleHandoff)] == ["round", "x_k", "labels", "cut_step", "backbone"]
    assert [spec.name for spec in fields(ClientError)] == ["reason"]
    assert {spec.name: spec.type for spec in fields(EvaluateReply)} == {
        "num_samples": "int",
        "held_out_loss": "float | None",
        "kernel_distance": "float | None",
        "seconds": "float | None",
        "flops_per_image": "int",
        "bits": "Unbounded | None",
        "releases": "int",
        "release_mu": "Unbounded",
        "dp_steps": "int",
        "dp_sgd_epsilon": "Unbounded",
        "dp_total_epsilon": "Unbounded",
        "dp_client_epsilon": "Unbounded",
        "tuned_updates": "int",
        "tuned_flops": "int",
    }


def test_what_a_client_sends_has_no_more_arrays_than_the_upload() -> None:
    reply = sent(encode(TrainReply(metrics=METRICS, upload=an_upload())))
    assert {name: set(record) for name, record in reply.array_records.items()} == {"upload": {"x_k", "scale", "labels"}}
    assert set(reply) == {"metrics", "upload"}
    for content in (encode(HELLO), encode(EVALUATION), encode(TrainReply(metrics=METRICS))):
        assert set(sent(content)) == {"metrics"}


# Round trips.


@pytest.mark.parametrize("want_upload", [True, False])
@pytest.mark.parametrize("backbone", [None, {"a.weight": torch.randn(2, 3), "b": torch.tensor(4)}])
def test_a_train_request_survives(want_upload: bool, backbone: dict[str, torch.Tensor] | None) -> None:
    arrays = None if backbone is None else ArrayRecord(backbone)
    back = decode(
        TrainRequest, sent(encode(TrainRequest(round=3, num_rounds=10, want_upload=want_upload, backbone=arrays)))
    )
    assert (back.round, back.num_rounds, back.want_upload) == (3, 10, want_upload)
    assert (back.backbone is None) == (backbone is None)
    received = back.backbone.to_torch_state_dict() if back.backbone else {}
    for name, value in (backbone or {}).items():
        assert torch.equal(received[name], value)


@settings(max_examples=50)
@given(st.builds(ClientInfo, *[st.integers(-(2**62), 2**62)] * 8))
def test_a_hello_survives(client_info: ClientInfo) -> None:
    assert decode(ClientInfo, sent(encode(client_info))) == client_info


FINITE = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(0, 2**62)


@settings(max_examples=50)
@given(st.builds(TrainMetrics, FINITE | st.none(), COUNT, COUNT, FINITE | st.none(), COUNT))
def test_the_numbers_of_training_survive(numbers: TrainMetrics) -> None:
    assert decode(TrainReply, sent(encode(TrainReply(metrics=numbers)))) == TrainReply(metrics=numbers)


@settings(max_examples=50)
@given(
    st.builds(
        EvaluateReply,
        num_samples=COUNT,
        held_out_loss=FINITE | st.none(),
        kernel_distance=FINITE | st.none(),
        seconds=FINITE | st.none(),
        flops_per_image=COUNT,
        releases=COUNT,
        bits=FINITE | st.just(math.inf) | st.none(),
        release_mu=FINITE | st.just(math.inf),
        dp_steps=COUNT,
        dp_sgd_epsilon=FINITE | st.just(math.inf),
        dp_total_epsilon=FINITE | st.just(math.inf),
        dp_client_epsilon=FINITE | st.just(math.inf),
    )
)
def test_an_evaluation_survives_with_infinite_bits(reply: EvaluateReply) -> None:
    assert decode(EvaluateReply, sent(encode(reply))) == reply


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("labels", [True, False])
def test_an_upload_survives_bit_for_bit(dtype: UploadDtype, labels: bool) -> None:
    upload = an_upload(dtype, labels)
    back = decode(TrainReply, sent(encode(TrainReply(metrics=METRICS, upload=upload))))
    assert back.metrics == METRICS
    assert back.upload is not None
    assert is_same(back.upload, upload)
    check_upload(back.upload, replace(CONTRACT, dtype=dtype, labels=labels))


@pytest.mark.parametrize("labels", [torch.tensor([2, 0, 1, 1]), torch.tensor([[0, 1, 0]] * 4, dtype=torch.uint8), None])
def test_a_hand_over_survives_and_can_be_written_to(labels: torch.Tensor | None) -> None:
    x_k = torch.randn(SHAPE)
    back = decode(SampleHandoff, sent(encode(SampleHandoff(round=7, x_k=x_k, labels=labels))))
    assert back.round == 7
    assert torch.equal(back.x_k, x_k)
    assert (back.labels is None) if labels is None else torch.equal(cast(torch.Tensor, back.labels), labels)
    assert labels is None or cast(torch.Tensor, back.labels).dtype == labels.dtype
    back.x_k.zero_()


@given(st.text())
def test_a_refusal_survives(reason: str) -> None:
    assert client_error(sent(encode(ClientError(reason)))) == ClientError(reason)


def test_no_refusal_is_read_where_none_is() -> None:
    assert client_error(encode(TrainReply(metrics=METRICS))) is None
    assert client_error(RecordDict({"config": ConfigRecord()})) == ClientError("no reason given")


# Bytes.


def test_an_empty_message_has_no_bytes() -> None:
    assert count_bytes(RecordDict()) == 0


def test_the_bytes_counted_are_those_of_the_values() -> None:
    """Of uploads of 640 values each, one in float32 is 3 bytes a value longer than int8, labels are 8 bytes a row."""

    def size(dtype: UploadDtype, labels: bool) -> int:
        x_k = torch.zeros(10, 1, 8, 8)
        upload = release.encode(x_k, dtype, torch.zeros(10, dtype=torch.int64) if labels else None)
        return count_bytes(encode(TrainReply(metrics=METRICS, upload=upload)))

    assert size("float32", True) - size("int8", True) == 3 * 640
    assert size("float16", True) - size("int8", True) == 640
    with_labels = size("int8", True) - size("int8", False)
    assert 80 <= with_labels <= 80 + 256, "and NumPy's header"


def test_attributes_are_a_byte_each() -> None:
    def size(attributes: int) -> int:
        upload = release.encode(torch.zeros(100, 1, 2, 2), "int8", torch.zeros((100, attributes), dtype=torch.uint8))
        return count_bytes(encode(TrainReply(metrics=METRICS, upload=upload)))

    assert size(40) - size(30) == 1000


def test_the_bytes_counted_add_up_over_records() -> None:
    content = encode(TrainReply(metrics=METRICS, upload=an_upload()))
    alone = [count_bytes(RecordDict({name: record})) for name, record in content.items()]
    assert sum(alone) == count_bytes(content)
    assert min(alone) > 0
