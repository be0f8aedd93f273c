"""A release is the image, noised to the cut with noise that only the client's secret can repeat."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from collafuse_flwr.core.grid import GRID
from collafuse_flwr.data.images import normalize
from collafuse_flwr.diffusion.schedule import Schedule, make_schedule
from collafuse_flwr.privacy.brownian_noise import POINTS, brownian_path, grid_point
from collafuse_flwr.privacy.release import (
    Upload,
    image_keys,
    upload_order,
)
from collafuse_flwr.privacy.release import release as release_on_path

SECRET = bytes(range(16))
SHAPE = (3, 8, 8)
SECRETS = st.binary(min_size=16, max_size=16)
INDICES = st.integers(0, 2**40)
COPIES = st.integers(0, 10**6)


def images(count: int, size: int = 8, seed: int = 0) -> Tensor:
    pixels = torch.randint(0, 256, (count, 1, size, size), generator=torch.Generator().manual_seed(seed))
    return normalize(pixels.to(torch.uint8))


def keys_of(x_0: Tensor, secret: bytes = SECRET) -> list[bytes]:
    return image_keys(secret, ((x_0 + 1) * 127.5).round().to(torch.uint8))


def release(schedule: Schedule, cut: int, x_0: Tensor, secret: bytes, draws: range) -> Tensor:
    """A release of images that are named by their content."""
    return release_on_path(float(schedule.alpha_bar[cut]), x_0, keys_of(x_0, secret), secret, draws)


def release_noise(secret: bytes, index: int, copy: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Standard normal noise of one release of an image that a number tells from others."""
    image = torch.zeros((1, *shape), dtype=torch.uint8)
    image.view(-1)[:6] = torch.tensor([index >> 8 * i & 255 for i in range(6)])
    x_0 = torch.zeros((1, *shape))
    x_k = release_on_path(0.5, x_0, image_keys(secret, image), secret, range(copy, copy + 1))
    return x_k[0].double().numpy() / math.sqrt(0.5)


def decoded(upload: Upload) -> NDArray[np.float64]:
    """x_k as the server reads it."""
    values: NDArray[np.float64] = upload.scale * upload.x_k.astype(np.float64)
    return values


#: Points of one path.
WRITTEN_DOWN = {
    0.01: [0.07292168572587308, 0.017469824193962005, 0.07839483732136697],
    0.5: [0.5854133141545637, -0.01507591619143736, 1.2528216112354904],
    1.0: [1.6894116910682304, -0.520926433376338, 1.8640550682657497],
    1.3: [1.7710092693581905, -0.4592109745669391, 2.442834246414091],
    700.0: [-8.372946390270776, -41.19726576626061, -4.196404148636979],
}


# The noise.


def test_the_noise_is_the_same_in_every_process_and_version() -> None:
    """Written down once: a change here would release every image a second time, with new noise."""
    (key,) = image_keys(SECRET, torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2))
    assert key.hex() == "d9e065853d59b2b458ef014c4dcbfbf1"
    for time, values in WRITTEN_DOWN.items():
        assert brownian_path(SECRET, key, (3,), time).tolist() == values


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
    """None of it is shared, but for values by chance (there are about 2^15)."""
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
    assert np.isin(second.ravel()[:20], first).sum() <= 5, "nor is it the same noise, shifted"


def test_index_and_copy_are_not_confused() -> None:
    assert not np.array_equal(release_noise(SECRET, 1, 2, SHAPE), release_noise(SECRET, 2, 1, SHAPE))


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


# The path.


@given(st.floats(1e-9, 1e9))
def test_a_time_is_never_rounded_to_less_noise_and_by_a_thousandth_at_most(time: float) -> None:
    octave, place = grid_point(time)
    assert 0 <= place < POINTS
    assert time <= math.ldexp(1 + place / POINTS, octave) <= time * (1 + 1 / POINTS)


@pytest.mark.parametrize("time", [0.0, -1.0, math.inf, math.nan])
def test_a_path_has_no_other_times(time: float) -> None:
    with pytest.raises(ValueError, match="must be positive and finite"):
        grid_point(time)


def test_a_path_is_a_brownian_motion_in_whatever_order_it_is_sampled() -> None:
    """Increments over a dozen octaves are independent, with the variance of the time between."""
    times = np.exp(np.random.default_rng(0).uniform(-8, 8, 30))
    points = np.array([math.ldexp(1 + place / POINTS, octave) for octave, place in map(grid_point, times)])
    path = np.stack([brownian_path(SECRET, b"path", (20_000,), time) for time in times])[np.argsort(points)]
    increments = np.diff(path, axis=0, prepend=0) / np.sqrt(np.diff(np.sort(points), prepend=0))[:, None]
    assert np.abs(np.corrcoef(increments) - np.eye(30)).max() < 5 / math.sqrt(20_000)
    assert np.abs(increments.var(axis=1) - 1).max() < 5 * math.sqrt(2 / 20_000)
    assert stats.kstest(increments.ravel(), "norm").pvalue > 1e-3


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
        path = struct.pack("<16sdQ", keys_of(x_0)[i], 0.0, copy)
        noise = brownian_path(SECRET, path, (1, 8, 8), (1 - alpha_bar) / alpha_bar) if cut else 0.0
        expected = math.sqrt(alpha_bar) * (x_0[i].double().numpy() + noise)
        np.testing.assert_allclose(x_k[row].double().numpy(), expected, rtol=0, atol=GRID / 2 if cut else 1e-7)


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


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_a_release_has_no_low_bits(cut: int) -> None:
    x_k = release(make_schedule("linear", 100), cut, images(6), SECRET, range(2))
    assert torch.equal(x_k, (x_k / GRID).round() * GRID)


def test_rows_leave_in_an_order_that_only_the_secret_tells() -> None:
    order = upload_order(SECRET, range(2), 50)
    assert order.sort().values.tolist() == list(range(100))
    assert order.tolist() == upload_order(SECRET, range(2), 50).tolist()
    places = torch.arange(100)
    for other in (places, upload_order(SECRET[::-1], range(2), 50), upload_order(SECRET, range(2, 4), 50)):
        assert (order == other).sum() < 10


def test_another_secret_releases_something_else() -> None:
    schedule, x_0 = make_schedule("cosine", 100), images(6)
    ours, theirs = (release(schedule, 30, x_0, secret, range(1)) for secret in (SECRET, SECRET[::-1]))
    assert (ours == theirs).float().mean() < 0.01


def test_copies_average_to_the_image_as_independent_noise_does() -> None:
    """The error of the mean of n copies has variance (1 - alpha_bar) / n: what `upload.draws_per_image` costs."""
    schedule, x_0, n = make_schedule("cosine", 100), images(100), 16
    x_k = release(schedule, 40, x_0, SECRET, range(n)).view(n, *x_0.shape)
    alpha_bar = float(schedule.alpha_bar[40])
    error = x_k.mean(dim=0) - math.sqrt(alpha_bar) * x_0
    assert error.var().item() == pytest.approx((1 - alpha_bar) / n, rel=0.06)
