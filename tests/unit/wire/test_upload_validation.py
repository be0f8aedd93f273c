"""An upload that keeps to what was agreed is taken, and any other is refused with one line that says why."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.diffusion.schedule import make_schedule
from collafuse_flwr.privacy.release import Upload, UploadDtype, encode, release
from collafuse_flwr.wire.validation import UploadSpec, check_upload
from tests.messages import CONTRACT, DTYPES, SHAPE, an_upload


def bad(upload: Upload, contract: UploadSpec = CONTRACT) -> str:
    """The one line that an upload is refused with."""
    with pytest.raises(UploadError) as caught:
        check_upload(upload, contract)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(max_examples=60)
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
    alpha_bar, keys = float(process.alpha_bar[cut]), [bytes([i] * 16) for i in range(8)]
    x_k = release(alpha_bar, x_0.sign() if extreme else x_0, keys, seed.to_bytes(16, "little"), range(2))
    labels = torch.randint(0, 5, (16,), generator=generator)
    contract = UploadSpec(16, 3, 4, 5, True, dtype, alpha_bar)
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


@settings(max_examples=60)
@given(
    st.sampled_from(["float16", "float32"]),
    st.integers(0, 15),
    st.sampled_from([math.nan, math.inf, -math.inf]) | st.floats(6.5, 1e4) | st.floats(-1e4, -6.5),
)
def test_one_bad_pixel_is_refused_wherever_it_is(dtype: UploadDtype, place: int, value: float) -> None:
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


@given(st.integers(0, 3), st.integers(-(2**63), -1) | st.integers(3, 2**63 - 1))
def test_a_label_out_of_range_is_refused_wherever_it_is(place: int, value: int) -> None:
    labels = np.zeros(4, np.int64)
    labels[place] = value
    assert bad(replace(an_upload(), labels=labels)) == "`upload.labels` must be in 0..2"


ATTRIBUTES = np.array([[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]], np.uint8)
WITH_ATTRIBUTES = replace(CONTRACT, num_attributes=3)


def test_attributes_take_the_place_of_classes() -> None:
    check_upload(replace(an_upload(), labels=ATTRIBUTES), WITH_ATTRIBUTES)
    assert bad(an_upload(), WITH_ATTRIBUTES) == "`upload.labels` must be uint8 of shape (4, 3)"
    assert bad(replace(an_upload(), labels=ATTRIBUTES)) == "`upload.labels` must be int64 of shape (4,)"


@pytest.mark.parametrize(
    "labels",
    [
        None,
        ATTRIBUTES[:, :2],
        ATTRIBUTES[:3],
        ATTRIBUTES[:, 0],
        ATTRIBUTES[..., None],
        ATTRIBUTES.astype(np.int64),
        ATTRIBUTES.astype(np.int8),
        ATTRIBUTES.astype(np.float32),
        np.full((4, 3), np.nan, np.float32),
        ATTRIBUTES.astype(bool),
    ],
    ids=lambda labels: "none" if labels is None else f"{labels.dtype} {labels.shape}",
)
def test_attributes_that_are_missing_or_of_another_kind_are_refused(labels: np.ndarray[Any, Any] | None) -> None:
    assert bad(replace(an_upload(), labels=labels), WITH_ATTRIBUTES) == "`upload.labels` must be uint8 of shape (4, 3)"


@given(st.integers(0, 11), st.integers(2, 255))
def test_an_attribute_that_is_neither_0_nor_1_is_refused_wherever_it_is(place: int, value: int) -> None:
    labels = ATTRIBUTES.copy()
    labels.flat[place] = value
    assert bad(replace(an_upload(), labels=labels), WITH_ATTRIBUTES) == "`upload.labels` must be in 0..1"


def test_labels_that_were_not_to_be_shared_are_refused() -> None:
    contract = replace(CONTRACT, labels=False)
    assert bad(an_upload(), contract) == (
        "`upload.labels` must not be sent when `upload.share_labels` is false or nothing is conditioned on"
    )
    check_upload(an_upload(labels=False), contract)


def test_the_first_mistake_is_reported_and_a_fitting_upload_is_silent() -> None:
    check_upload(an_upload(), CONTRACT)
    everything_wrong = Upload(np.full((1, 1, 1, 1), np.nan, np.float64), -1.0, None)
    assert bad(everything_wrong).startswith("`upload.x_k` must be float32")
