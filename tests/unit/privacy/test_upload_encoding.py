"""What travels of a release: rounded to int8 or float16, or as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from collafuse_flwr.diffusion.schedule import make_schedule
from collafuse_flwr.privacy.release import (
    QUANTISED_MAX,
    UploadDtype,
    encode,
)
from tests.unit.privacy.test_release import SECRET, decoded, images, release

ARRAYS = st.tuples(st.integers(0, 2**31), st.floats(-3, 3)).map(
    lambda drawn: 10 ** drawn[1] * torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(drawn[0]))
)


@given(ARRAYS)
def test_int8_is_wrong_by_half_a_step_at_most(x_k: Tensor) -> None:
    upload = encode(x_k, "int8", None)
    assert upload.x_k.dtype == np.int8
    assert upload.x_k.shape == tuple(x_k.shape)
    assert upload.scale == np.float32(upload.scale), "it travels as one"
    assert upload.scale == pytest.approx(x_k.abs().max().item() / QUANTISED_MAX, rel=1e-6)
    assert np.abs(upload.x_k.astype(int)).max() == QUANTISED_MAX, "the whole range is used, and it is symmetric"
    assert np.abs(decoded(upload) - x_k.double().numpy()).max() <= upload.scale / 2 * (1 + 1e-4)


@given(ARRAYS)
def test_int8_is_symmetric_and_keeps_order_and_zero(x_k: Tensor) -> None:
    x_k[0, 0, 0, 0] = 0
    upload, mirrored = encode(x_k, "int8", None), encode(-x_k, "int8", None)
    assert np.array_equal(upload.x_k, -mirrored.x_k)
    assert upload.scale == mirrored.scale
    assert upload.x_k[0, 0, 0, 0] == 0
    order = np.argsort(x_k.numpy().ravel())
    assert (np.diff(upload.x_k.ravel()[order].astype(int)) >= 0).all()


def test_an_upload_of_zeros_is_zeros() -> None:
    upload = encode(torch.zeros(2, 1, 4, 4), "int8", None)
    assert not upload.x_k.any()
    assert upload.scale > 0


@given(ARRAYS)
def test_float16_keeps_11_bits_and_float32_all(x_k: Tensor) -> None:
    exact, half = encode(x_k, "float32", None), encode(x_k, "float16", None)
    assert np.array_equal(exact.x_k, x_k.numpy())
    assert exact.x_k.dtype == np.float32
    assert half.x_k.dtype == np.float16
    assert (exact.scale, half.scale) == (1.0, 1.0)
    error = np.abs(decoded(half) - x_k.double().numpy())
    assert (error <= np.maximum(2**-11 * x_k.abs().double().numpy(), 2**-25)).all()


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_encoding_is_a_function_of_the_release_alone(dtype: UploadDtype) -> None:
    x_k, labels = images(4), torch.tensor([0, 1, 2, 3])
    before, first = x_k.clone(), encode(x_k, dtype, labels)
    again = encode(x_k.clone(), dtype, None)
    assert np.array_equal(first.x_k, again.x_k)
    assert first.scale == again.scale
    assert torch.equal(x_k, before)
    assert len(first) == 4


def test_labels_travel_as_they_are_or_not_at_all() -> None:
    labels = torch.tensor([3, 0, 2, 2])
    upload = encode(images(4), "int8", labels)
    assert upload.labels is not None
    assert upload.labels.dtype == np.int64
    assert upload.labels.tolist() == labels.tolist()
    assert encode(images(4), "int8", None).labels is None


@pytest.mark.parametrize("name", ["cosine", "linear", "sigmoid"])
@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.4, 0.7, 1.0])
def test_rounding_to_int8_is_lost_in_the_noise_of_the_cut(name: str, ratio: float) -> None:
    """It adds scale^2 / 12, as rounding does, which is below 1 % of the variance of the diffusion noise."""
    schedule = make_schedule(name, 100)
    cut = round(100 * ratio)
    x_k = release(schedule, cut, images(200), SECRET, range(1))
    upload = encode(x_k, "int8", None)
    variance = np.square(decoded(upload) - x_k.double().numpy()).mean()
    assert variance == pytest.approx(upload.scale**2 / 12, rel=0.05)
    assert variance < 0.01 * float(1 - schedule.alpha_bar[cut])
