"""Messages with weights: they come back as they were sent, and nothing else comes with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.privacy.release import Upload
from collafuse_flwr.wire.codec import Weights, count_bytes, decode, encode
from collafuse_flwr.wire.collafuse import TrainReply
from collafuse_flwr.wire.common import TrainMetrics
from collafuse_flwr.wire.fedavg import HybridReply, HybridRequest, WeightsHandoff, WeightsReply, WeightsRequest
from collafuse_flwr.wire.validation import check_weights

METRICS = TrainMetrics(0.5, 3, 24, 0.1, 10**9)
WEIGHTS: Weights = {"conv.weight": torch.randn(2, 1, 3, 3), "conv.bias": torch.randn(2), "seen": torch.tensor(7)}


def same(ours: Weights, theirs: Weights) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("sent", [WEIGHTS, {}])
def test_a_request_comes_back_as_it_was_sent(sent: Weights) -> None:
    content = encode(WeightsRequest(round=2, num_rounds=5, weights=sent, part="decoder", want_averaged=True))
    request = decode(WeightsRequest, content)
    assert (request.round, request.num_rounds, request.part, request.want_averaged) == (2, 5, "decoder", True)
    assert same(request.weights, sent)
    assert count_bytes(content) > 0


@pytest.mark.parametrize("averaged", [WEIGHTS, {}])
def test_a_reply_comes_back_as_it_was_sent(averaged: Weights) -> None:
    reply = decode(WeightsReply, encode(WeightsReply(metrics=METRICS, weights=WEIGHTS, averaged=averaged)))
    assert reply.metrics == METRICS
    assert same(reply.weights, WEIGHTS)
    assert same(reply.averaged, averaged)


def test_a_hand_over_comes_back_as_it_was_sent() -> None:
    x_t, labels = torch.randn(3, 1, 4, 4), torch.tensor([1, 2, 3])
    received = decode(WeightsHandoff, encode(WeightsHandoff(round=4, x_k=x_t, labels=labels, averaged=WEIGHTS)))
    assert received.round == 4
    assert torch.equal(received.x_k, x_t)
    assert received.labels is not None
    assert torch.equal(received.labels, labels)
    assert same(received.averaged, WEIGHTS)


def test_the_hybrids_messages_are_those_of_both() -> None:
    backbone = {"conv.bias": torch.ones(2)}
    both = HybridRequest(
        round=2,
        num_rounds=5,
        want_upload=True,
        backbone=ArrayRecord(backbone),
        weights=WEIGHTS,
        part="all",
        want_averaged=False,
    )
    request = decode(HybridRequest, encode(both))
    assert (request.round, request.num_rounds, request.want_upload) == (2, 5, True)
    assert (request.part, request.want_averaged) == ("all", False)
    assert request.backbone is not None
    assert same(dict(request.backbone.to_torch_state_dict()), backbone)
    assert same(request.weights, WEIGHTS)
    upload = Upload(np.ones((1, 1, 2, 2), np.float32), 1.0)
    reply = decode(HybridReply, encode(HybridReply(metrics=METRICS, upload=upload, weights=WEIGHTS, averaged={})))
    assert reply.upload is not None
    assert np.array_equal(reply.upload.x_k, upload.x_k)
    assert same(reply.weights, WEIGHTS)


@pytest.mark.parametrize("own", [TrainReply, WeightsReply])
def test_who_expects_one_of_both_refuses_the_other_half(own: type[object]) -> None:
    upload = Upload(np.ones((1, 1, 2, 2), np.float32), 1.0)
    content = encode(HybridReply(metrics=METRICS, upload=upload, weights=WEIGHTS, averaged={}))
    with pytest.raises(UploadError, match=f"^`{own.__name__}` may hold .*, not "):
        decode(own, content)
    content["x_0"] = content["weights"]
    with pytest.raises(UploadError, match="x_0"):
        decode(HybridReply, content)


def test_a_client_of_collafuse_cannot_send_weights_nor_one_of_fedavg_images() -> None:
    weights = encode(WeightsReply(metrics=METRICS, weights=WEIGHTS, averaged={}))
    with pytest.raises(UploadError, match="weights"):
        decode(TrainReply, weights)
    upload = encode(TrainReply(metrics=METRICS, upload=Upload(np.ones((1, 1, 2, 2), np.float32), 1.0)))
    with pytest.raises(UploadError, match="upload"):
        decode(WeightsReply, upload)


@pytest.mark.parametrize(
    "values",
    [np.array(["a"]), np.array([True]), np.ones(1, ">f4"), np.ones(1, np.longdouble), np.ones(1, "m8[s]")],
)
def test_weights_are_numbers(values: np.ndarray) -> None:
    content = encode(WeightsReply(metrics=METRICS, weights=WEIGHTS, averaged={}))
    content["weights"] = ArrayRecord({"conv.bias": Array(values)})
    with pytest.raises(UploadError, match=r"weights\.conv\.bias"):
        decode(WeightsReply, content)


def test_bytes_that_are_no_array_are_refused() -> None:
    content = encode(WeightsReply(metrics=METRICS, weights=WEIGHTS, averaged={}))
    broken = Array(dtype="float32", shape=(2,), stype="numpy.ndarray", data=b"nothing")
    content = RecordDict({**content, "weights": ArrayRecord({"conv.bias": broken})})
    with pytest.raises(UploadError, match=r"weights\.conv\.bias"):
        decode(WeightsReply, content)


def test_variances_are_not_negative() -> None:
    wanted = {"norm.running_mean": torch.zeros(2), "norm.running_var": torch.ones(2)}
    check_weights("weights", wanted | {"norm.running_mean": -torch.ones(2)}, wanted)
    with pytest.raises(UploadError, match=r"`weights.norm.running_var` holds variances, which must not be negative"):
        check_weights("weights", wanted | {"norm.running_var": torch.tensor([1.0, -0.1])}, wanted)


def test_requested_weights_pass() -> None:
    check_weights("weights", {name: value.clone() for name, value in WEIGHTS.items()}, WEIGHTS)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, "lacks conv.bias, conv.weight, seen"),
        (WEIGHTS | {"more": torch.ones(1)}, "has more that were not requested"),
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
