import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.data.images import ImageSet, center_crop_resize, normalize, to_uint8


def some_images(n: int = 6, size: int = 4) -> ImageSet:
    pixels = torch.arange(n * size * size, dtype=torch.int64).remainder(256).to(torch.uint8)
    return ImageSet(pixels.view(n, 1, size, size), torch.arange(n) % 3, ("a", "b", "c"), "test")


def test_every_uint8_value_survives_the_round_trip() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    x = normalize(pixels)
    assert x.dtype == torch.float32
    assert (x.min().item(), x.max().item()) == (-1, 1)
    assert torch.equal(to_uint8(x), pixels)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_to_uint8_clamps_and_never_wraps(values: list[float]) -> None:
    x = torch.tensor(values)
    back = normalize(to_uint8(x))
    # Half a grey level is 1/255; the rest is float32 arithmetic.
    assert (back - x.clamp(-1, 1)).abs().max() <= 1 / 255 + 1e-6


def test_to_uint8_of_nan_and_low_precision() -> None:
    assert to_uint8(torch.tensor([float("nan"), float("inf"), -float("inf")])).tolist() == [0, 255, 0]
    assert to_uint8(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.bfloat16)).tolist() == [0, 128, 255]


def test_model_space_is_made_of_uint8_only() -> None:
    with pytest.raises(ValueError, match="`images` must be uint8"):
        normalize(torch.zeros(1))


def test_subset_keeps_the_classes_of_the_whole() -> None:
    images = some_images()
    part = images.subset(torch.tensor([4, 1]))
    assert len(part) == 2
    assert part.labels.tolist() == [1, 1]
    assert part.num_classes == images.num_classes == 3
    assert torch.equal(part.images[0], images.images[4])


@pytest.mark.parametrize(
    ("images", "labels", "name"),
    [
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "images"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), "images"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "labels"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2), "labels"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), "labels"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, -1]), "labels"),
    ],
)
def test_image_sets_that_do_not_fit_together_are_refused(images: torch.Tensor, labels: torch.Tensor, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        ImageSet(images, labels, ("one",), "test")


def test_fit_crops_the_centre_and_resizes() -> None:
    wide = torch.zeros(2, 3, 4, 8, dtype=torch.uint8)
    wide[..., 2:6] = 200
    assert torch.equal(center_crop_resize(wide, 4), torch.full((2, 3, 4, 4), 200, dtype=torch.uint8))
    assert torch.equal(center_crop_resize(wide, 6), torch.full((2, 3, 6, 6), 200, dtype=torch.uint8))
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(8).expand(1, 1, 16, 16)
    assert set(center_crop_resize(stripes, 4)[..., 1:3, 1:3].flatten().tolist()) <= {
        127,
        128,
    }  # antialiased, not picked


def test_fit_of_zero_keeps_square_images_and_refuses_others() -> None:
    square = some_images().images
    assert center_crop_resize(square, 0) is square
    with pytest.raises(DataError, match=r"^`image_size` = 0 .* 4 x 8 pixels"):
        center_crop_resize(torch.zeros(1, 1, 4, 8, dtype=torch.uint8), 0)


def test_enlargement_is_of_the_image_that_has_most_values_for_each_of_its_own() -> None:
    pixels = torch.arange(2 * 3 * 64, dtype=torch.uint8).view(2, 3, 8, 8)
    grey = pixels[:, :1].expand(-1, 3, -1, -1)
    for images, sides, expected in (
        (pixels, None, 1.0),
        (pixels, [8, 100], 1.0),
        (pixels, [8, 4], 4.0),
        (pixels, [6, 16], 64 / 36),
        (pixels[:, :1], [8, 8], 1.0),
        (grey, [100, 8], 3.0),
        (grey, [2, 4], 48.0),
        (torch.cat([pixels[:1], grey[1:]]), [8, 4], 12.0),
    ):
        native = None if sides is None else torch.tensor(sides)
        own = ImageSet(images, torch.zeros(2, dtype=torch.int64), ("one",), "set", native_sides=native)
        assert own.enlargement() == pytest.approx(expected)
    assert own.subset(torch.tensor([0])).enlargement() == 1.0


@pytest.mark.parametrize("size", [1, 3, 7, 8, 13, 64])
def test_resized_images_are_within_their_range(size: int) -> None:
    """Whatever is resized how: a norm of sqrt(values) bounds images that are not clipped."""
    board = (torch.arange(64).view(1, 1, 8, 8) % 2 * 255).to(torch.uint8)
    for images in (board, board.flip(3), (board.float().sign() * 255).to(torch.uint8)[:, :, :, :5]):
        x = normalize(center_crop_resize(images, size))
        assert x.abs().max() <= 1
        assert x.double().norm() <= x.numel() ** 0.5
