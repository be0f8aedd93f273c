"""A message that does not fit the schema is refused, with a reason."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.wire.codec import decode, encode
from collafuse_flwr.wire.collafuse import TrainReply
from collafuse_flwr.wire.common import ClientInfo, EvaluateReply, TrainMetrics
from tests.messages import EVALUATION, HELLO, METRICS, SHAPE, an_upload, sent


def _replies() -> dict[str, tuple[Callable[[], RecordDict], type[object]]]:
    return {
        "hello": (lambda: encode(HELLO), ClientInfo),
        "train": (lambda: encode(TrainReply(metrics=METRICS, upload=an_upload())), TrainReply),
        "train without upload": (lambda: encode(TrainReply(metrics=METRICS)), TrainReply),
        "evaluate": (lambda: encode(EVALUATION), EvaluateReply),
    }


REPLIES = _replies()
UNBOUNDED = ("bits", "release_mu", "dp_sgd_epsilon", "dp_total_epsilon", "dp_client_epsilon")
EXTRA: dict[str, Callable[[], ArrayRecord | MetricRecord | ConfigRecord]] = {
    "arrays": lambda: ArrayRecord({"x_0": Array(np.zeros(SHAPE, np.float32))}),
    "metrics": lambda: MetricRecord({"seed": 1}),
    "config": lambda: ConfigRecord({"image": b"x_0"}),
}


@settings(max_examples=100)
@given(st.sampled_from(sorted(REPLIES)), st.sampled_from(sorted(EXTRA)), st.text(min_size=1, max_size=12))
def test_no_reply_may_hold_another_record(kind: str, extra: str, name: str) -> None:
    pack, reply = REPLIES[kind]
    content = pack()
    decode(reply, content)
    if name not in ("metrics", "upload"):
        content[name] = EXTRA[extra]()
        with pytest.raises(UploadError, match=r"^`\w+` may hold "):
            decode(reply, sent(content))


@pytest.mark.parametrize("kind", sorted(REPLIES))
@pytest.mark.parametrize("extra", sorted(EXTRA))
@pytest.mark.parametrize("name", ["metrics", "upload"])
def test_no_record_may_stand_in_for_another(kind: str, extra: str, name: str) -> None:
    """Nor may one of another type travel under a name of the schema."""
    pack, reply = REPLIES[kind]
    content = pack()
    del_first = {key: record for key, record in content.items() if key != name}
    with pytest.raises(UploadError, match=name):
        decode(reply, sent(RecordDict({**del_first, name: EXTRA[extra]()})))


@pytest.mark.parametrize("missing", ["x_k", "scale"])
def test_an_upload_without_its_arrays_is_refused(missing: str) -> None:
    content = encode(TrainReply(metrics=METRICS, upload=an_upload()))
    arrays = {name: array for name, array in content.array_records["upload"].items() if name != missing}
    with pytest.raises(UploadError, match=r"^`upload` must hold x_k, scale and at most labels"):
        decode(TrainReply, sent(RecordDict({**content, "upload": ArrayRecord(arrays)})))


@settings(max_examples=30)
@given(st.text(min_size=1, max_size=12).filter(lambda name: name not in ("x_k", "scale", "labels")))
def test_an_upload_with_another_array_is_refused(name: str) -> None:
    content = encode(TrainReply(metrics=METRICS, upload=an_upload()))
    arrays = {**content.array_records["upload"], name: Array(np.zeros(3, np.float32))}
    with pytest.raises(UploadError, match=r"^`upload` must hold x_k, scale and at most labels"):
        decode(TrainReply, sent(RecordDict({**content, "upload": ArrayRecord(arrays)})))


def _zip() -> bytes:
    file = io.BytesIO()
    np.savez(file, x_k=np.zeros(SHAPE, np.float32))
    return file.getvalue()


def _pickle() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("name", ["x_k", "scale", "labels"])
@pytest.mark.parametrize(
    "array",
    [
        Array("float32", SHAPE, "numpy.ndarray", b""),
        Array("float32", SHAPE, "numpy.ndarray", b"no array"),
        Array("float32", SHAPE, "numpy.ndarray", _zip()),
        Array("object", (1,), "numpy.ndarray", _pickle()),
        Array("float32", SHAPE, "pickle", b"no array"),
    ],
    ids=["empty", "junk", "zip", "pickle", "other"],
)
def test_bytes_that_are_no_array_are_refused_and_break_nothing(name: str, array: Array) -> None:
    content = encode(TrainReply(metrics=METRICS, upload=an_upload()))
    arrays = {**content.array_records["upload"], name: array}
    with pytest.raises(UploadError, match=f"^`upload.{name}` "):
        decode(TrainReply, sent(RecordDict({**content, "upload": ArrayRecord(arrays)})))


@pytest.mark.parametrize("scale", [np.ones(2, np.float32), np.ones((), np.float32), np.ones(1, np.float64)])
def test_a_scale_that_is_not_one_float32_is_refused(scale: np.ndarray[Any, Any]) -> None:
    """A longer one could carry something."""
    content = encode(TrainReply(metrics=METRICS, upload=an_upload()))
    arrays = {**content.array_records["upload"], "scale": Array(scale)}
    with pytest.raises(UploadError, match=r"^`upload.scale` must be one float32"):
        decode(TrainReply, sent(RecordDict({**content, "upload": ArrayRecord(arrays)})))


# Numbers.


@pytest.mark.parametrize("name", [spec.name for spec in fields(TrainMetrics) if "None" not in str(spec.type)])
def test_a_missing_number_is_refused(name: str) -> None:
    """Except one that the owner of the images may keep to itself."""
    values = {key: value for key, value in asdict(METRICS).items() if key != name}
    with pytest.raises(UploadError, match=f"^`metrics` must hold exactly .*{name}"):
        decode(TrainMetrics, RecordDict({"metrics": MetricRecord(values)}))


@settings(max_examples=30)
@given(st.text(max_size=12).filter(lambda name: name not in asdict(METRICS)))
def test_a_number_too_many_is_refused(name: str) -> None:
    with pytest.raises(UploadError, match=r"^`metrics` must hold exactly "):
        decode(TrainMetrics, RecordDict({"metrics": MetricRecord(asdict(METRICS) | {name: 1})}))


def test_no_numbers_are_refused() -> None:
    with pytest.raises(UploadError, match=r"not nothing$"):
        decode(TrainMetrics, RecordDict())


@pytest.mark.parametrize("name", [spec.name for spec in fields(TrainMetrics)])
@pytest.mark.parametrize("value", [[1.0], [1], [], list(range(64))])
def test_a_list_is_no_number(name: str, value: list[int] | list[float]) -> None:
    """It could carry an image."""
    with pytest.raises(UploadError, match=f"^`metrics.{name}` = .* must be one"):
        decode(TrainMetrics, RecordDict({"metrics": MetricRecord(asdict(METRICS) | {name: value})}))


@pytest.mark.parametrize("name", [spec.name for spec in fields(TrainMetrics) if spec.type == "int"])
@pytest.mark.parametrize("value", [1.0, 1.5, math.nan])
def test_a_count_must_be_whole(name: str, value: float) -> None:
    with pytest.raises(UploadError, match=f"^`metrics.{name}` = .* must be one int"):
        decode(TrainMetrics, RecordDict({"metrics": MetricRecord(asdict(METRICS) | {name: value})}))


@pytest.mark.parametrize("name", [spec.name for spec in fields(EvaluateReply) if "int" not in str(spec.type)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_only_what_may_have_no_bound_may_be_infinite_and_nothing_may_be_nan(name: str, value: float) -> None:
    content = RecordDict({"metrics": MetricRecord(asdict(EVALUATION) | {name: value})})
    if name in UNBOUNDED and value == math.inf:
        assert getattr(decode(EvaluateReply, content), name) == math.inf
    else:
        with pytest.raises(UploadError, match=f"^`metrics.{name}` = .* must be finite"):
            decode(EvaluateReply, content)


def test_a_whole_number_is_read_as_a_float_where_one_is_wanted() -> None:
    content = RecordDict({"metrics": MetricRecord(asdict(METRICS) | {"loss": 1})})
    assert type(decode(TrainMetrics, content).loss) is float
