"""A release is the image, noised to the cut with noise that only the client's secret can repeat."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from collafuse_flwr.diffusion.schedule import make_schedule
from collafuse_flwr.privacy.release import QUANTISED_MAX, Upload, UploadDtype, encode, release
from collafuse_flwr.privacy.release import release_noise as noise_of

SECRET = bytes(range(16))
SHAPE = (3, 8, 8)
SECRETS = st.binary(min_size=16, max_size=16)
INDICES = st.integers(0, 2**40)
COPIES = st.integers(0, 10**6)


def images(count: int, size: int = 8, seed: int = 0) -> Tensor:
    return torch.rand((count, 1, size, size), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def release_noise(secret: bytes, index: int, copy: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Noise of an image that is told from others by a number in its pixels."""
    image = np.zeros(shape, np.float32)
    image.ravel()[:3] = [index >> 40, (index >> 20) & 0xFFFFF, index & 0xFFFFF]
    return noise_of(secret, image, 0.5, copy)


def decoded(upload: Upload) -> NDArray[np.float64]:
    """x_k as the server reads it."""
    values: NDArray[np.float64] = upload.scale * upload.x_k.astype(np.float64)
    return values


# The noise.


def test_the_noise_is_the_same_in_every_process_and_version() -> None:
    """Written down once: a change here would release every image a second time, with new noise."""
    noise = release_noise(SECRET, 3, 1, (4,))
    assert noise.dtype == np.float32
    assert noise.tolist() == [1.033587098121643, -0.16079410910606384, 1.334125280380249, 1.6862293481826782]


@given(SECRETS, INDICES, COPIES)
def test_the_noise_is_a_function_of_secret_index_and_copy(secret: bytes, index: int, copy: int) -> None:
    first = release_noise(secret, index, copy, SHAPE)
    release_noise(secret, index + 1, copy, SHAPE)
    np.random.default_rng().standard_normal(3)
    assert np.array_equal(release_noise(secret, index, copy, SHAPE), first)


@given(SECRETS, INDICES, COPIES, st.sampled_from(["secret", "index", "copy"]), st.data())
def test_another_secret_index_or_copy_has_other_noise(
    secret: bytes, index: int, copy: int, changed: str, data: st.DataObject
) -> None:
    """None of it is shared, but for a value by chance (there are about 2^24)."""
    first = release_noise(secret, index, copy, SHAPE)
    if changed == "secret":
        bit = data.draw(st.integers(0, 127))
        secret = (int.from_bytes(secret, "little") ^ (1 << bit)).to_bytes(16, "little")
    elif changed == "index":
        index += data.draw(st.integers(1, 1000))
    else:
        copy += data.draw(st.integers(1, 1000))
    second = release_noise(secret, index, copy, SHAPE)
    assert (first == second).mean() < 0.02
    assert np.isin(second.ravel()[:20], first).sum() <= 2, "nor is it the same noise, shifted"


def test_index_and_copy_are_not_confused() -> None:
    assert not np.array_equal(release_noise(SECRET, 1, 2, SHAPE), release_noise(SECRET, 2, 1, SHAPE))


def test_another_cut_has_other_noise() -> None:
    """With the same noise, uploads at two cuts would be two equations for the image and the noise."""
    schedule, x_0 = make_schedule("cosine", 100), images(4)
    near, far = (release(schedule, cut, x_0, SECRET, range(1)).double() for cut in (20, 40))
    a, b = schedule.alpha_bar[20], schedule.alpha_bar[40]
    weights = torch.linalg.solve(
        torch.tensor([[a.sqrt(), b.sqrt()], [(1 - a).sqrt(), (1 - b).sqrt()]]), torch.tensor([1.0, 0.0]).double()
    )
    rebuilt = weights[0] * near + weights[1] * far
    assert (rebuilt - x_0).square().mean().sqrt() > 0.3


def test_an_image_keeps_its_noise_wherever_it_is() -> None:
    """Images that come or go do not make the others leave again."""
    schedule, x_0 = make_schedule("cosine", 100), images(5)
    whole = release(schedule, 30, x_0, SECRET, range(1))
    assert torch.equal(release(schedule, 30, x_0[[3, 1]], SECRET, range(1)), whole[[3, 1]])


@pytest.fixture(scope="module")
def many() -> NDArray[np.float64]:
    """Noise of 400 images and 3 copies, shape (1200, 192)."""
    rows = [release_noise(SECRET, i, copy, SHAPE).ravel() for copy in range(3) for i in range(400)]
    return np.stack(rows).astype(np.float64)


def test_the_noise_is_standard_normal(many: NDArray[np.float64]) -> None:
    """Moments within 5 standard errors, and no distance to the normal law (Kolmogorov and Smirnov)."""
    n = many.size
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((many**power).mean() - expected) < 5 * math.sqrt(variance / n)
    assert stats.kstest(many.ravel(), "norm").pvalue > 1e-3


def test_every_image_and_every_pixel_has_noise_of_its_own(many: NDArray[np.float64]) -> None:
    """Means over images, and over pixels, are as spread as those of independent values (chi-square)."""
    for axis in (0, 1):
        scaled = many.mean(axis=axis) * math.sqrt(many.shape[axis])
        assert 1e-3 < stats.chi2.cdf((scaled**2).sum(), len(scaled)) < 1 - 1e-3


def test_images_and_copies_are_uncorrelated(many: NDArray[np.float64]) -> None:
    """Of 1200 rows of 192 values, the largest of 719,400 correlations is near 5 / sqrt(192) if there is none."""
    correlations = np.corrcoef(many) - np.eye(len(many))
    assert np.abs(correlations).max() < 6.5 / math.sqrt(many.shape[1])
    assert np.square(correlations).sum() / (1200 * 1199) == pytest.approx(1 / 192, rel=0.05)


# The release.


@pytest.mark.parametrize("name", ["cosine", "linear", "sigmoid"])
@pytest.mark.parametrize("cut", [0, 1, 20, 50, 99, 100])
def test_a_release_is_the_forward_process_at_the_cut(name: str, cut: int) -> None:
    schedule, x_0 = make_schedule(name, 100), images(5)
    x_k = release(schedule, cut, x_0, SECRET, range(2, 4))
    alpha_bar = float(schedule.alpha_bar[cut])
    assert x_k.shape == (10, 1, 8, 8)
    assert x_k.dtype == torch.float32
    for row, (copy, i) in enumerate([(copy, i) for copy in (2, 3) for i in range(5)]):
        noise = noise_of(SECRET, x_0[i].numpy(), alpha_bar, copy).astype(np.float64)
        expected = math.sqrt(alpha_bar) * x_0[i].double().numpy() + math.sqrt(1 - alpha_bar) * noise
        np.testing.assert_allclose(x_k[row].double().numpy(), expected, rtol=0, atol=1e-6)


def test_nothing_is_noised_at_cut_0_and_nothing_is_left_of_the_image_at_t() -> None:
    schedule, x_0 = make_schedule("cosine", 100), images(200)
    assert torch.equal(release(schedule, 0, x_0, SECRET, range(1)), x_0)
    x_k = release(schedule, 100, x_0, SECRET, range(1))
    correlation = torch.corrcoef(torch.stack([x_0.flatten(), x_k.flatten()]))[0, 1]
    assert abs(correlation.item()) < 5 / math.sqrt(x_0.numel())


@pytest.mark.parametrize("cut", [0, 30, 100])
def test_uploading_again_discloses_nothing_new(cut: int) -> None:
    schedule, x_0 = make_schedule("cosine", 100), images(6)
    first = release(schedule, cut, x_0, SECRET, range(2))
    torch.randn(3)
    assert torch.equal(release(schedule, cut, x_0, SECRET, range(2)), first)


def test_a_part_of_the_images_or_copies_has_the_same_bits() -> None:
    """So that it does not matter how a client batches its work, or in which round a copy leaves."""
    schedule, x_0 = make_schedule("cosine", 100), images(6)
    whole = release(schedule, 30, x_0, SECRET, range(4))
    assert torch.equal(release(schedule, 30, x_0[:2], SECRET, range(4)), whole.view(4, 6, 1, 8, 8)[:, :2].flatten(0, 1))
    for copy in (3, 1):
        assert torch.equal(release(schedule, 30, x_0, SECRET, range(copy, copy + 1)), whole[6 * copy : 6 * copy + 6])


def test_another_secret_releases_something_else() -> None:
    schedule, x_0 = make_schedule("cosine", 100), images(6)
    ours, theirs = (release(schedule, 30, x_0, secret, range(1)) for secret in (SECRET, SECRET[::-1]))
    assert not (ours == theirs).any()


def test_copies_average_to_the_image_as_independent_noise_does() -> None:
    """The error of the mean of n copies has variance (1 - alpha_bar) / n: what `upload.draws_per_image` costs."""
    schedule, x_0, n = make_schedule("cosine", 100), images(100), 16
    x_k = release(schedule, 40, x_0, SECRET, range(n)).view(n, *x_0.shape)
    alpha_bar = float(schedule.alpha_bar[40])
    error = x_k.mean(dim=0) - math.sqrt(alpha_bar) * x_0
    assert error.var().item() == pytest.approx((1 - alpha_bar) / n, rel=0.06)


# What travels.

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
