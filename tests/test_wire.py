"""What crosses: every message survives the network, and whatever does not fit the schema is refused with a reason."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.contract import UploadContract, check_upload
from collafuse_flwr.diffusion import make_schedule
from collafuse_flwr.errors import UploadError
from collafuse_flwr.privacy.release import Upload, UploadDtype, encode, release
from collafuse_flwr.wire import (
    EvaluateReply,
    HandOver,
    Hello,
    Refusal,
    TrainNumbers,
    TrainReply,
    TrainRequest,
    count_bytes,
    pack_hand_over,
    pack_numbers,
    pack_refusal,
    pack_train_reply,
    pack_train_request,
    unpack_evaluate_reply,
    unpack_hand_over,
    unpack_hello,
    unpack_numbers,
    unpack_refusal,
    unpack_train_reply,
    unpack_train_request,
)

DTYPES: tuple[UploadDtype, ...] = ("int8", "float16", "float32")
CONTRACT = UploadContract(rows=4, channels=1, size=2, num_classes=3, labels=True, dtype="float32", alpha_bar=0.5)
SHAPE = (4, 1, 2, 2)

HELLO = Hello(partition_id=2, cut_step=20, timesteps=100, num_images=9, channels=3, size=8, num_classes=5)
NUMBERS = TrainNumbers(loss=0.25, steps=7, image_updates=112, seconds=1.5, flops=2**40)
EVALUATION = EvaluateReply(12, 0.1, -0.003, 2.5, 2**33, 3, 140.5)


def sent(content: RecordDict) -> RecordDict:
    """The content as it arrives: through Flower's own serialisation, to bytes and back."""
    return recorddict_from_proto(RecordDictProto.FromString(recorddict_to_proto(content).SerializeToString()))


def an_upload(dtype: UploadDtype = "float32", labels: bool = True) -> Upload:
    x_k = torch.linspace(-1, 1, 16).view(SHAPE)
    return encode(x_k, dtype, torch.tensor([0, 1, 2, 0]) if labels else None)


def is_same(a: Upload, b: Upload) -> bool:
    same_labels = (
        np.array_equal(a.labels, b.labels) if a.labels is not None and b.labels is not None else a.labels is b.labels
    )
    return a.x_k.dtype == b.x_k.dtype and np.array_equal(a.x_k, b.x_k) and a.scale == b.scale and bool(same_labels)


# The schema itself.


def test_the_schema_has_these_fields_and_no_others() -> None:
    """Whoever adds a field here lets something new leave a client: noise, x_0, a seed or weights must never be one."""
    listed = {
        kind: {spec.name: str(spec.type) for spec in fields(kind)} for kind in (Hello, TrainRequest, TrainNumbers)
    }
    assert listed[Hello] == dict.fromkeys(
        ("partition_id", "cut_step", "timesteps", "num_images", "channels", "size", "num_classes"), "int"
    )
    assert listed[TrainRequest] == {
        "round": "int",
        "num_rounds": "int",
        "want_upload": "bool",
        "backbone": "dict[str, Tensor] | None",
    }
    assert listed[TrainNumbers] == {
        "loss": "float",
        "steps": "int",
        "image_updates": "int",
        "seconds": "float",
        "flops": "int",
    }
    assert [spec.name for spec in fields(TrainReply)] == ["numbers", "upload"]
    assert [spec.name for spec in fields(Upload)] == ["x_k", "scale", "labels"]
    assert [spec.name for spec in fields(HandOver)] == ["round", "x_k", "labels"]
    assert [spec.name for spec in fields(Refusal)] == ["reason"]
    assert {spec.name: spec.type for spec in fields(EvaluateReply)} == {
        "num_samples": "int",
        "held_out_loss": "float",
        "kernel_distance": "float",
        "seconds": "float",
        "flops_per_image": "int",
        "releases": "int",
        "bits": "float",
    }


def test_what_a_client_sends_has_no_more_arrays_than_the_upload() -> None:
    reply = sent(pack_train_reply(TrainReply(NUMBERS, an_upload())))
    assert {name: set(record) for name, record in reply.array_records.items()} == {"upload": {"x_k", "scale", "labels"}}
    assert set(reply) == {"numbers", "upload"}
    for content in (pack_numbers(HELLO), pack_numbers(EVALUATION), pack_train_reply(TrainReply(NUMBERS))):
        assert set(sent(content)) == {"numbers"}


# Round trips.


@pytest.mark.parametrize("want_upload", [True, False])
@pytest.mark.parametrize("backbone", [None, {"a.weight": torch.randn(2, 3), "b": torch.tensor(4)}])
def test_a_train_request_survives(want_upload: bool, backbone: dict[str, torch.Tensor] | None) -> None:
    back = unpack_train_request(sent(pack_train_request(TrainRequest(3, 10, want_upload, backbone))))
    assert (back.round, back.num_rounds, back.want_upload) == (3, 10, want_upload)
    assert (back.backbone is None) == (backbone is None)
    for name, value in (backbone or {}).items():
        assert torch.equal((back.backbone or {})[name], value)


@settings(deadline=None, max_examples=50)
@given(st.builds(Hello, *[st.integers(-(2**62), 2**62)] * 7))
def test_a_hello_survives(hello: Hello) -> None:
    assert unpack_hello(sent(pack_numbers(hello))) == hello


FINITE = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(0, 2**62)


@settings(deadline=None, max_examples=50)
@given(st.builds(TrainNumbers, FINITE, COUNT, COUNT, FINITE, COUNT))
def test_the_numbers_of_training_survive(numbers: TrainNumbers) -> None:
    assert unpack_train_reply(sent(pack_train_reply(TrainReply(numbers)))) == TrainReply(numbers, None)


@settings(deadline=None, max_examples=50)
@given(st.builds(EvaluateReply, COUNT, FINITE, FINITE, FINITE, COUNT, COUNT, FINITE | st.just(math.inf)))
def test_an_evaluation_survives_with_infinite_bits(reply: EvaluateReply) -> None:
    assert unpack_evaluate_reply(sent(pack_numbers(reply))) == reply


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("labels", [True, False])
def test_an_upload_survives_bit_for_bit(dtype: UploadDtype, labels: bool) -> None:
    upload = an_upload(dtype, labels)
    back = unpack_train_reply(sent(pack_train_reply(TrainReply(NUMBERS, upload))))
    assert back.numbers == NUMBERS
    assert back.upload is not None
    assert is_same(back.upload, upload)
    check_upload(back.upload, replace(CONTRACT, dtype=dtype, labels=labels))


@pytest.mark.parametrize("labels", [torch.tensor([2, 0, 1, 1]), None])
def test_a_hand_over_survives_and_can_be_written_to(labels: torch.Tensor | None) -> None:
    x_k = torch.randn(SHAPE)
    back = unpack_hand_over(sent(pack_hand_over(HandOver(7, x_k, labels))))
    assert back.round == 7
    assert torch.equal(back.x_k, x_k)
    assert (back.labels is None) if labels is None else torch.equal(cast(torch.Tensor, back.labels), labels)
    back.x_k.zero_()


@settings(deadline=None)
@given(st.text())
def test_a_refusal_survives(reason: str) -> None:
    assert unpack_refusal(sent(pack_refusal(Refusal(reason)))) == Refusal(reason)


def test_no_refusal_is_read_where_none_is() -> None:
    assert unpack_refusal(pack_train_reply(TrainReply(NUMBERS))) is None
    assert unpack_refusal(RecordDict({"refusal": ConfigRecord()})) == Refusal("no reason given")


# Bytes.


def test_an_empty_message_has_no_bytes() -> None:
    assert count_bytes(RecordDict()) == 0


def test_the_bytes_counted_are_those_of_the_values() -> None:
    """Of uploads of 640 values each, one in float32 is 3 bytes a value longer than int8, labels are 8 bytes a row."""

    def size(dtype: UploadDtype, labels: bool) -> int:
        x_k = torch.zeros(10, 1, 8, 8)
        upload = encode(x_k, dtype, torch.zeros(10, dtype=torch.int64) if labels else None)
        return count_bytes(pack_train_reply(TrainReply(NUMBERS, upload)))

    assert size("float32", True) - size("int8", True) == 3 * 640
    assert size("float16", True) - size("int8", True) == 640
    with_labels = size("int8", True) - size("int8", False)
    assert 80 <= with_labels <= 80 + 256, "and NumPy's header"


def test_the_bytes_counted_add_up_over_records() -> None:
    content = pack_train_reply(TrainReply(NUMBERS, an_upload()))
    alone = [count_bytes(RecordDict({name: record})) for name, record in content.items()]
    assert sum(alone) == count_bytes(content)
    assert min(alone) > 0


# Records that are not in the schema.


def _replies() -> dict[str, tuple[Callable[[], RecordDict], Callable[[RecordDict], object]]]:
    return {
        "hello": (lambda: pack_numbers(HELLO), unpack_hello),
        "train": (lambda: pack_train_reply(TrainReply(NUMBERS, an_upload())), unpack_train_reply),
        "train without upload": (lambda: pack_train_reply(TrainReply(NUMBERS)), unpack_train_reply),
        "evaluate": (lambda: pack_numbers(EVALUATION), unpack_evaluate_reply),
    }


REPLIES = _replies()
EXTRA: dict[str, Callable[[], ArrayRecord | MetricRecord | ConfigRecord]] = {
    "arrays": lambda: ArrayRecord({"x_0": Array(np.zeros(SHAPE, np.float32))}),
    "metrics": lambda: MetricRecord({"seed": 1}),
    "config": lambda: ConfigRecord({"image": b"x_0"}),
}


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(sorted(REPLIES)), st.sampled_from(sorted(EXTRA)), st.text(min_size=1, max_size=12))
def test_no_reply_may_hold_another_record(kind: str, extra: str, name: str) -> None:
    pack, unpack = REPLIES[kind]
    content = pack()
    unpack(content)
    if name not in ("numbers", "upload"):
        content[name] = EXTRA[extra]()
        with pytest.raises(UploadError, match=r"^a reply may hold "):
            unpack(sent(content))


@pytest.mark.parametrize("kind", sorted(REPLIES))
@pytest.mark.parametrize("extra", sorted(EXTRA))
@pytest.mark.parametrize("name", ["numbers", "upload"])
def test_no_record_may_stand_in_for_another(kind: str, extra: str, name: str) -> None:
    """Nor may one of another type travel under a name of the schema."""
    pack, unpack = REPLIES[kind]
    content = pack()
    del_first = {key: record for key, record in content.items() if key != name}
    with pytest.raises(UploadError, match=name):
        unpack(sent(RecordDict({**del_first, name: EXTRA[extra]()})))


@pytest.mark.parametrize("missing", ["x_k", "scale"])
def test_an_upload_without_its_arrays_is_refused(missing: str) -> None:
    content = pack_train_reply(TrainReply(NUMBERS, an_upload()))
    arrays = {name: array for name, array in content.array_records["upload"].items() if name != missing}
    with pytest.raises(UploadError, match=r"^`upload` must hold x_k, scale and at most labels"):
        unpack_train_reply(sent(RecordDict({**content, "upload": ArrayRecord(arrays)})))


@settings(deadline=None, max_examples=30)
@given(st.text(min_size=1, max_size=12).filter(lambda name: name not in ("x_k", "scale", "labels")))
def test_an_upload_with_another_array_is_refused(name: str) -> None:
    content = pack_train_reply(TrainReply(NUMBERS, an_upload()))
    arrays = {**content.array_records["upload"], name: Array(np.zeros(3, np.float32))}
    with pytest.raises(UploadError, match=r"^`upload` must hold x_k, scale and at most labels"):
        unpack_train_reply(sent(RecordDict({**content, "upload": ArrayRecord(arrays)})))


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
    content = pack_train_reply(TrainReply(NUMBERS, an_upload()))
    arrays = {**content.array_records["upload"], name: array}
    with pytest.raises(UploadError, match=f"^`upload.{name}` "):
        unpack_train_reply(sent(RecordDict({**content, "upload": ArrayRecord(arrays)})))


@pytest.mark.parametrize("scale", [np.ones(2, np.float32), np.ones((), np.float32), np.ones(1, np.float64)])
def test_a_scale_that_is_not_one_float32_is_refused(scale: np.ndarray[Any, Any]) -> None:
    """A longer one could carry something."""
    content = pack_train_reply(TrainReply(NUMBERS, an_upload()))
    arrays = {**content.array_records["upload"], "scale": Array(scale)}
    with pytest.raises(UploadError, match=r"^`upload.scale` must be one float32"):
        unpack_train_reply(sent(RecordDict({**content, "upload": ArrayRecord(arrays)})))


# Numbers.


@pytest.mark.parametrize("name", [spec.name for spec in fields(TrainNumbers)])
def test_a_missing_number_is_refused(name: str) -> None:
    values = {key: value for key, value in asdict(NUMBERS).items() if key != name}
    with pytest.raises(UploadError, match=f"^`numbers` must hold exactly .*{name}"):
        unpack_numbers(RecordDict({"numbers": MetricRecord(values)}), TrainNumbers)


@settings(deadline=None, max_examples=30)
@given(st.text(max_size=12).filter(lambda name: name not in asdict(NUMBERS)))
def test_a_number_too_many_is_refused(name: str) -> None:
    with pytest.raises(UploadError, match=r"^`numbers` must hold exactly "):
        unpack_numbers(RecordDict({"numbers": MetricRecord(asdict(NUMBERS) | {name: 1})}), TrainNumbers)


def test_no_numbers_are_refused() -> None:
    with pytest.raises(UploadError, match=r"not nothing$"):
        unpack_numbers(RecordDict(), TrainNumbers)


@pytest.mark.parametrize("name", [spec.name for spec in fields(TrainNumbers)])
@pytest.mark.parametrize("value", [[1.0], [1], [], list(range(64))])
def test_a_list_is_no_number(name: str, value: list[int] | list[float]) -> None:
    """It could carry an image."""
    with pytest.raises(UploadError, match=f"^`numbers.{name}` = .* must be one number of type"):
        unpack_numbers(RecordDict({"numbers": MetricRecord(asdict(NUMBERS) | {name: value})}), TrainNumbers)


@pytest.mark.parametrize("name", [spec.name for spec in fields(TrainNumbers) if spec.type == "int"])
@pytest.mark.parametrize("value", [1.0, 1.5, math.nan])
def test_a_count_must_be_whole(name: str, value: float) -> None:
    with pytest.raises(UploadError, match=f"^`numbers.{name}` = .* must be one number of type int"):
        unpack_numbers(RecordDict({"numbers": MetricRecord(asdict(NUMBERS) | {name: value})}), TrainNumbers)


@pytest.mark.parametrize("name", [spec.name for spec in fields(EvaluateReply) if spec.type == "float"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_only_bits_may_be_infinite_and_nothing_may_be_nan(name: str, value: float) -> None:
    content = RecordDict({"numbers": MetricRecord(asdict(EVALUATION) | {name: value})})
    if name == "bits" and value == math.inf:
        assert unpack_evaluate_reply(content).bits == math.inf
    else:
        with pytest.raises(UploadError, match=f"^`numbers.{name}` = .* must be finite"):
            unpack_evaluate_reply(content)


def test_a_whole_number_is_read_as_a_float_where_one_is_wanted() -> None:
    content = RecordDict({"numbers": MetricRecord(asdict(NUMBERS) | {"loss": 1})})
    assert type(unpack_numbers(content, TrainNumbers).loss) is float


# Uploads, held against the contract.


def bad(upload: Upload, contract: UploadContract = CONTRACT) -> str:
    """The one line that an upload is refused with."""
    with pytest.raises(UploadError) as caught:
        check_upload(upload, contract)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["cosine", "linear", "sigmoid"]),
    st.integers(0, 100),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_an_honest_upload_is_never_refused(
    schedule: str, cut: int, dtype: UploadDtype, seed: int, extreme: bool
) -> None:
    """At whatever cut, in whatever precision: also of images that are all black and white."""
    process, generator = make_schedule(schedule, 100), torch.Generator().manual_seed(seed)
    x_0 = torch.rand((8, 3, 4, 4), generator=generator) * 2 - 1
    x_k = release(process, cut, x_0.sign() if extreme else x_0, seed.to_bytes(16, "little"), range(2))
    labels = torch.randint(0, 5, (16,), generator=generator)
    contract = UploadContract(16, 3, 4, 5, True, dtype, float(process.alpha_bar[cut]))
    check_upload(encode(x_k, dtype, labels), contract)


@pytest.mark.parametrize(
    "x_k",
    [
        np.zeros((3, 1, 2, 2), np.float32),
        np.zeros((5, 1, 2, 2), np.float32),
        np.zeros((4, 3, 2, 2), np.float32),
        np.zeros((4, 1, 2, 3), np.float32),
        np.zeros((4, 4), np.float32),
        np.zeros((0, 1, 2, 2), np.float32),
        np.zeros((), np.float32),
        np.zeros(SHAPE, np.float64),
        np.zeros(SHAPE, np.float16),
        np.zeros(SHAPE, np.int8),
        np.zeros(SHAPE, np.dtype(">f4")),
        np.zeros(SHAPE, np.complex64),
    ],
    ids=lambda x_k: f"{x_k.dtype.str} {x_k.shape}",
)
def test_another_shape_or_type_is_refused(x_k: np.ndarray[Any, Any]) -> None:
    line = bad(replace(an_upload(), x_k=x_k))
    assert line == f"`upload.x_k` must be float32 of shape {SHAPE}, not {x_k.dtype} {x_k.shape}"


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["float16", "float32"]),
    st.integers(0, 15),
    st.sampled_from([math.nan, math.inf, -math.inf]) | st.floats(6.5, 1e4) | st.floats(-1e4, -6.5),
)
def test_one_bad_pixel_is_found_wherever_it_is(dtype: UploadDtype, place: int, value: float) -> None:
    """At alpha_bar = 1/2 an image in [-1, 1] and eight standard deviations reach 9 / sqrt(2) = 6.36."""
    upload = an_upload(dtype)
    x_k = upload.x_k.copy()
    x_k.flat[place] = value
    assert bad(replace(upload, x_k=x_k), replace(CONTRACT, dtype=dtype)).startswith("`upload.x_k` reaches ")


@pytest.mark.parametrize("alpha_bar", [0.0, 0.1, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_the_range_believed_is_an_image_and_eight_deviations_of_its_noise(alpha_bar: float, dtype: UploadDtype) -> None:
    """And half a step of int8, of which there are 127."""
    contract = replace(CONTRACT, alpha_bar=alpha_bar, dtype=dtype)
    limit = math.sqrt(alpha_bar) + 8 * math.sqrt(1 - alpha_bar)
    assert contract.bound == pytest.approx(limit)
    x_k = torch.zeros(SHAPE)
    for reached in (limit, -limit):
        x_k[1, 0, 1, 0] = reached * 1.005
        check_upload(encode(x_k, dtype, torch.zeros(4, dtype=torch.int64)), contract)
        x_k[1, 0, 1, 0] = reached * 1.01
        assert f"within {limit:g}" in bad(encode(x_k, dtype, torch.zeros(4, dtype=torch.int64)), contract)


def test_the_code_that_int8_has_no_mirror_image_of_is_measured_too() -> None:
    """abs(-128) is -128 in int8."""
    contract = replace(CONTRACT, dtype="int8")
    x_k = np.full(SHAPE, -128, np.int8)
    assert bad(replace(an_upload("int8"), x_k=x_k, scale=0.06), contract).startswith("`upload.x_k` reaches 7.68")


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, 0.0, -1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_scale_that_is_not_positive_and_finite_is_refused(scale: float, dtype: UploadDtype) -> None:
    line = bad(replace(an_upload(dtype), scale=scale), replace(CONTRACT, dtype=dtype))
    assert line == f"`upload.scale` = {scale} must be finite and positive, and 1 for floats"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_floats_have_no_scale(dtype: UploadDtype) -> None:
    assert bad(replace(an_upload(dtype), scale=0.5), replace(CONTRACT, dtype=dtype)).startswith("`upload.scale` = 0.5 ")


def test_an_int8_scale_that_reaches_too_far_is_refused() -> None:
    line = bad(replace(an_upload("int8"), scale=1.0), replace(CONTRACT, dtype="int8"))
    assert line.startswith("`upload.x_k` reaches 127;")


@pytest.mark.parametrize(
    "labels",
    [
        None,
        np.zeros(3, np.int64),
        np.zeros((4, 1), np.int64),
        np.zeros(4, np.int32),
        np.zeros(4, np.uint8),
        np.zeros(4, np.float64),
        np.zeros(4, bool),
    ],
    ids=lambda labels: "none" if labels is None else f"{labels.dtype} {labels.shape}",
)
def test_labels_that_are_missing_or_of_another_kind_are_refused(labels: np.ndarray[Any, Any] | None) -> None:
    assert bad(replace(an_upload(), labels=labels)) == "`upload.labels` must be int64 of shape (4,)"


@settings(deadline=None)
@given(st.integers(0, 3), st.integers(-(2**63), -1) | st.integers(3, 2**63 - 1))
def test_a_label_out_of_range_is_refused_wherever_it_is(place: int, value: int) -> None:
    labels = np.zeros(4, np.int64)
    labels[place] = value
    assert bad(replace(an_upload(), labels=labels)) == "`upload.labels` must be in 0..2"


def test_labels_that_were_not_to_be_shared_are_refused() -> None:
    contract = replace(CONTRACT, labels=False)
    assert bad(an_upload(), contract) == "`upload.labels` must not be sent when `share_labels` is false"
    check_upload(an_upload(labels=False), contract)


def test_the_first_thing_that_does_not_fit_is_told_and_a_fitting_upload_is_silent() -> None:
    check_upload(an_upload(), CONTRACT)
    everything_wrong = Upload(np.full((1, 1, 1, 1), np.nan, np.float64), -1.0, None)
    assert bad(everything_wrong).startswith("`upload.x_k` must be float32")
