"""Messages with weights: they come back as they were sent, and nothing else comes with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.privacy.release import Upload
from collafuse_flwr.wire.codec import count_bytes
from collafuse_flwr.wire.collafuse import (
    SampleHandoff,
    TrainMetrics,
    TrainReply,
    TrainRequest,
    pack_train_reply,
    pack_train_request,
    unpack_train_reply,
    unpack_train_request,
)
from collafuse_flwr.wire.fedavg import (
    Weights,
    WeightsHandoff,
    WeightsReply,
    WeightsRequest,
    merge,
    pack_weights_handoff,
    pack_weights_reply,
    pack_weights_request,
    split_hybrid_reply,
    unpack_weights_handoff,
    unpack_weights_reply,
    unpack_weights_request,
)
from collafuse_flwr.wire.validation import check_weights

NUMBERS = TrainMetrics(0.5, 3, 24, 0.1, 10**9)
WEIGHTS: Weights = {"conv.weight": torch.randn(2, 1, 3, 3), "conv.bias": torch.randn(2), "seen": torch.tensor(7)}


def same(ours: Weights, theirs: Weights) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("sent", [WEIGHTS, {}])
def test_a_request_comes_back_as_it_was_sent(sent: Weights) -> None:
    content = pack_weights_request(WeightsRequest(2, 5, sent, "decoder", want_averaged=True))
    request = unpack_weights_request(content)
    assert (request.round, request.num_rounds, request.part, request.want_averaged) == (2, 5, "decoder", True)
    assert same(request.weights, sent)
    assert count_bytes(content) > 0


@pytest.mark.parametrize("averaged", [WEIGHTS, {}])
def test_a_reply_comes_back_as_it_was_sent(averaged: Weights) -> None:
    reply = unpack_weights_reply(pack_weights_reply(WeightsReply(NUMBERS, WEIGHTS, averaged)))
    assert reply.numbers == NUMBERS
    assert same(reply.weights, WEIGHTS)
    assert same(reply.averaged, averaged)


def test_a_hand_over_comes_back_as_it_was_sent() -> None:
    x_t, labels = torch.randn(3, 1, 4, 4), torch.tensor([1, 2, 3])
    received = unpack_weights_handoff(pack_weights_handoff(WeightsHandoff(SampleHandoff(4, x_t, labels), WEIGHTS)))
    assert received.handoff.round == 4
    assert torch.equal(received.handoff.x_k, x_t)
    assert received.handoff.labels is not None
    assert torch.equal(received.handoff.labels, labels)
    assert same(received.averaged, WEIGHTS)


def test_two_messages_in_one_are_read_apart() -> None:
    backbone = {"conv.bias": torch.ones(2)}
    merged = merge(
        pack_train_request(TrainRequest(2, 5, True, ArrayRecord(backbone))),
        pack_weights_request(WeightsRequest(2, 5, WEIGHTS, "all", False)),
    )
    first, second = unpack_train_request(merged), unpack_weights_request(merged)
    assert (first.round, first.want_upload, second.part) == (2, True, "all")
    assert same(first.weights() or {}, backbone)
    assert same(second.weights, WEIGHTS)
    upload = Upload(np.ones((1, 1, 2, 2), np.float32), 1.0)
    own, shared = split_hybrid_reply(
        merge(pack_train_reply(TrainReply(NUMBERS, upload)), pack_weights_reply(WeightsReply(NUMBERS, WEIGHTS, {})))
    )
    assert unpack_train_reply(own).upload is not None
    assert same(unpack_weights_reply(shared).weights, WEIGHTS)


def test_what_belongs_to_neither_of_two_messages_is_refused() -> None:
    content = merge(pack_train_reply(TrainReply(NUMBERS)), pack_weights_reply(WeightsReply(NUMBERS, WEIGHTS, {})))
    content["x_0"] = content["weights"]
    for own, read in zip(split_hybrid_reply(content), (unpack_train_reply, unpack_weights_reply), strict=True):
        with pytest.raises(UploadError, match="x_0"):
            read(own)


def test_a_client_of_collafuse_cannot_send_weights_nor_one_of_fedavg_images() -> None:
    weights = pack_weights_reply(WeightsReply(NUMBERS, WEIGHTS, {}))
    with pytest.raises(UploadError, match="weights"):
        unpack_train_reply(weights)
    upload = pack_train_reply(TrainReply(NUMBERS, Upload(np.ones((1, 1, 2, 2), np.float32), 1.0)))
    with pytest.raises(UploadError, match="upload"):
        unpack_weights_reply(upload)


@pytest.mark.parametrize(
    "values",
    [np.array(["a"]), np.array([True]), np.ones(1, ">f4"), np.ones(1, np.longdouble), np.ones(1, "m8[s]")],
)
def test_weights_are_numbers(values: np.ndarray) -> None:
    content = pack_weights_reply(WeightsReply(NUMBERS, WEIGHTS, {}))
    content["weights"] = ArrayRecord({"conv.bias": Array(values)})
    with pytest.raises(UploadError, match=r"weights\.conv\.bias"):
        unpack_weights_reply(content)


def test_bytes_that_are_no_array_are_refused() -> None:
    content = pack_weights_reply(WeightsReply(NUMBERS, WEIGHTS, {}))
    broken = Array(dtype="float32", shape=(2,), stype="numpy.ndarray", data=b"nothing")
    content = RecordDict({**content, "weights": ArrayRecord({"conv.bias": broken})})
    with pytest.raises(UploadError, match=r"weights\.conv\.bias"):
        unpack_weights_reply(content)


def test_variances_are_not_negative() -> None:
    wanted = {"norm.running_mean": torch.zeros(2), "norm.running_var": torch.ones(2)}
    check_weights("weights", wanted | {"norm.running_mean": -torch.ones(2)}, wanted)
    with pytest.raises(UploadError, match=r"`weights.norm.running_var` holds variances, which must not be negative"):
        check_weights("weights", wanted | {"norm.running_var": torch.tensor([1.0, -0.1])}, wanted)


def test_weights_as_asked_for_pass() -> None:
    check_weights("weights", {name: value.clone() for name, value in WEIGHTS.items()}, WEIGHTS)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, "lacks conv.bias, conv.weight, seen"),
        (WEIGHTS | {"more": torch.ones(1)}, "has more that were not asked for"),
        (WEIGHTS | {"conv.bias": torch.ones(3)}, "must be torch.float32 (2,), not torch.float32 (3,)"),
        (WEIGHTS | {"conv.bias": torch.ones(2, dtype=torch.float64)}, "not torch.float64"),
        (WEIGHTS | {"conv.bias": torch.tensor([1.0, float("nan")])}, "`weights.conv.bias` must be finite"),
        (WEIGHTS | {"conv.bias": torch.tensor([1.0, float("-inf")])}, "`weights.conv.bias` must be finite"),
        (WEIGHTS | {"conv.bias": torch.tensor([1.0, -1e5])}, "must be finite and within 10000, and reaches 100000"),
    ],
)
def test_other_weights_are_refused_with_the_reason(changed: Weights, reason: str) -> None:
    with pytest.raises(UploadError) as caught:
        check_weights("weights", changed, WEIGHTS)
    assert reason in str(caught.value)
