"""What crosses in the split GAN: it survives, has no labels, images or codes, and what does not fit is refused."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.gan.split_gan.ops import PHASES
from collafuse_flwr.gan.split_gan.precision import quantize_roundtrip
from collafuse_flwr.wire.codec import decode, encode
from collafuse_flwr.wire.split_gan import (
    ActivationsReply,
    EndRoundReply,
    EndRoundRequest,
    GanTrainMetrics,
    GenerateHeadRequest,
    GenerateTailRequest,
    SplitRequest,
)
from collafuse_flwr.wire.validation import check_activations
from tests.messages import sent

DTYPES = ("float32", "float16", "bfloat16")
METRICS = GanTrainMetrics(loss=1.25, generator_loss=0.5, steps=3, image_updates=24, seconds=0.5, flops=2**40)
WEIGHTS = {"generator.0.linear.weight": torch.randn(2, 3), "generator.0.norm.num_batches_tracked": torch.tensor(4)}
TENSORS = {"dh_fake": torch.randn(2, 3, 4, 4), "dh_real": torch.randn(2, 3, 4, 4) * 1e-9}
SHAPES = {name: x.shape for name, x in TENSORS.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def as_sent(dtype: str) -> dict[str, torch.Tensor]:
    return {name: quantize_roundtrip(x, dtype) for name, x in TENSORS.items()}


def test_the_schema_has_these_fields_and_no_others() -> None:
    """Labels, images and codes have none: whoever adds a field here lets something new leave a client."""
    assert [spec.name for spec in fields(SplitRequest)] == ["round", "step", "phase", "cuts", "activations", "weights"]
    assert [spec.name for spec in fields(EndRoundRequest)] == ["round", "cuts", "activations", "next_cuts"]
    assert [spec.name for spec in fields(EndRoundReply)] == ["metrics", "weights"]
    assert {spec.name: spec.type for spec in fields(GanTrainMetrics)} == {
        **dict.fromkeys(("loss", "generator_loss", "seconds"), "float | None"),
        **dict.fromkeys(("steps", "image_updates", "flops"), "int"),
    }
    assert [spec.name for spec in fields(GenerateHeadRequest)] == ["round", "count", "cuts", "weights"]
    assert [spec.name for spec in fields(GenerateTailRequest)] == ["round", "cuts", "activations"]
    up = {name for _, names in PHASES.values() for name in names}
    assert up == {"gh", "dh_fake", "dh_real", "dh", "grad_dt_fake", "grad_dt_real", "grad_dt", "grad_gt"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_messages_survive(dtype: str) -> None:
    split = SplitRequest(2, 5, "fake", "0010", TENSORS, WEIGHTS)
    back = decode(SplitRequest, sent(encode(split, dtype)), dtype)
    assert (back.round, back.step, back.phase, back.cuts) == (2, 5, "fake", "0010")
    assert same(back.activations, as_sent(dtype))
    assert same(back.weights, WEIGHTS)
    for message in (EndRoundRequest(2, "0010", TENSORS), GenerateTailRequest(2, "0010", TENSORS)):
        other = decode(type(message), sent(encode(message, dtype)), dtype)
        assert (other.round, other.cuts) == (2, "0010")
        assert same(other.activations, as_sent(dtype))
    for cuts in (None, "0010"):
        end = EndRoundRequest(2, "0000", TENSORS, cuts)
        assert decode(EndRoundRequest, sent(encode(end, dtype)), dtype).next_cuts == cuts
    answer = decode(ActivationsReply, sent(encode(ActivationsReply(TENSORS), dtype)), dtype).activations
    check_activations(answer, SHAPES)
    assert same(answer, as_sent(dtype))


@pytest.mark.parametrize(("ours", "theirs"), [(a, b) for a in DTYPES for b in DTYPES if a != b])
def test_another_precision_than_was_agreed_on_is_refused(ours: str, theirs: str) -> None:
    with pytest.raises(UploadError, match=rf"^`activations.dh_fake` must be {ours}, not "):
        decode(SplitRequest, encode(SplitRequest(1, 0, "fake", "0000", TENSORS, {}), theirs), ours)


def test_messages_without_tensors_survive() -> None:
    back = decode(SplitRequest, sent(encode(SplitRequest(1, 0, "latent", "0000", {}, {}), "float16")), "float16")
    assert (back.activations, back.weights) == ({}, {})
    latent = decode(GenerateHeadRequest, sent(encode(GenerateHeadRequest(3, 12, "0010", WEIGHTS))))
    assert (latent.round, latent.count, latent.cuts) == (3, 12, "0010")
    assert same(latent.weights, WEIGHTS)
    reply = decode(EndRoundReply, sent(encode(EndRoundReply(METRICS, WEIGHTS))))
    assert reply.metrics == METRICS
    assert same(reply.weights, WEIGHTS)


@settings(max_examples=30)
@given(st.sampled_from(("float16", "bfloat16")), st.integers(-149, 127))
def test_no_power_of_two_is_lost_in_sixteen_bits(dtype: str, power: int) -> None:
    """From the smallest number above 0 to the largest, gradients included."""
    x = torch.tensor([[2.0**power, 0.0, -(2.0 ** max(power - 3, -149))]], dtype=torch.float64).float()
    assert torch.equal(
        decode(ActivationsReply, sent(encode(ActivationsReply({"gh": x}), dtype)), dtype).activations["gh"], x
    )


def answer(dtype: str = "float32", **changed: Any) -> RecordDict:
    """Such an answer with some arrays changed; None takes one away."""
    content = encode(ActivationsReply(TENSORS), dtype)
    arrays = dict(content.array_records["activations"].items())
    for name, value in changed.items():
        arrays.pop(name.replace("__", "."), None)
        if value is not None:
            arrays[name.replace("__", ".")] = Array(value)
    return RecordDict({"activations": ArrayRecord(arrays)})


def ones(dtype: Any, *shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape or SHAPES["dh_fake"], dtype)


@pytest.mark.parametrize(
    ("dtype", "content", "reason"),
    [
        ("float32", answer(dh_fake=None), "`activations` must hold dh_fake, dh_real, not dh_real"),
        ("float32", answer(labels=ones(np.float32, 2)), "`activations` must hold dh_fake, dh_real, not "),
        ("float32", answer(dh_fake=ones(np.float64)), "`activations.dh_fake` must be float32, not float64"),
        ("float32", answer(dh_fake=ones(np.float16)), "`activations.dh_fake` must be float32, not float16"),
        ("float32", answer(dh_fake=ones(np.float32, 2, 3)), "`activations.dh_fake` must be of shape (2, 3, 4, 4)"),
        ("float32", answer(dh_fake=ones(np.float32) * np.nan), "`activations.dh_fake` must be finite"),
        ("float32", answer(dh_fake=ones(np.float32) * np.inf), "`activations.dh_fake` must be finite"),
        ("float32", answer(dh_fake=ones(np.float32) * 1.1e4), "must be finite and within 10000, and reaches 11000"),
        ("float32", answer(dh_fake=ones(np.float32) * -1e30), "must be finite and within 10000, and reaches 1e+30"),
        ("float32", answer(dh_fake__exponent=ones(np.int64, 1)), "`activations` must hold dh_fake, dh_real, not "),
        ("float32", answer(dh_fake__exponent=np.array(1)), "`activations` must hold dh_fake, dh_real, not "),
        ("float32", answer(dh_fake__exponent=np.array([])), "`activations` must hold dh_fake, dh_real, not "),
        ("float32", answer(dh_fake__exponent=np.array(["a"])), "`activations` must hold dh_fake, dh_real, not "),
        ("float16", answer("float16", dh_fake__exponent=np.array(1)), "must come with one int64 exponent"),
        ("float16", answer(), "`activations.dh_fake` must be float16, not float32"),
        ("float16", answer("float16", dh_fake__exponent=None), "must come with one int64 exponent"),
        ("float16", answer("float16", dh_fake__exponent=ones(np.int64, 2)), "must come with one int64 exponent"),
        ("float16", answer("float16", dh_fake__exponent=ones(np.int32, 1)), "must come with one int64 exponent"),
        ("float16", answer("float16", dh_fake=None), "`activations` must hold"),
        ("float16", answer("float16", dh_fake__exponent=201 * ones(np.int64, 1)), "must be within 200 of 0"),
        ("float16", answer("float16", dh_fake__exponent=200 * ones(np.int64, 1)), "must be finite"),
        ("float16", answer("float16", dh_fake=ones(np.float16) * np.nan), "`activations.dh_fake` must be finite"),
        ("bfloat16", answer("float16"), "`activations.dh_fake` must be bfloat16, not float16"),
        ("bfloat16", answer("bfloat16", dh_fake=0x7F80 * ones(np.int16)), "`activations.dh_fake` must be finite"),
        ("float32", RecordDict(), "`activations` must hold dh_fake, dh_real, not nothing"),
        ("float32", RecordDict({"activations": MetricRecord({"x": 1})}), "`activations` must be ArrayRecord"),
        ("float32", RecordDict({**answer(), "labels": ArrayRecord()}), "may hold activations, not labels"),
        ("float32", RecordDict({**answer(), "metrics": MetricRecord({"label": 3})}), "not metrics"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(dtype: str, content: RecordDict, reason: str) -> None:
    with pytest.raises(UploadError) as caught:
        check_activations(decode(ActivationsReply, sent(content), dtype).activations, SHAPES)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [spec.name for spec in fields(GanTrainMetrics)])
def test_the_end_of_a_round_tells_finite_numbers_and_nothing_else(name: str) -> None:
    for value in (float("nan"), [1.0, 2.0]):
        numbers = MetricRecord(asdict(METRICS) | {name: value})
        with pytest.raises(UploadError, match=rf"^`metrics.{name}` = "):
            decode(EndRoundReply, sent(RecordDict({"metrics": numbers})))
    with pytest.raises(UploadError, match=r"^`\w+` may hold metrics, weights, not activations"):
        decode(EndRoundReply, sent(RecordDict({**encode(EndRoundReply(METRICS, WEIGHTS)), **answer()})))
