"""Augmentation that the generator's gradient passes through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.gan.settings import SplitGanConfig
from collafuse_flwr.gan.split_gan.augmentation import augment

IMAGES = torch.rand((5, 2, 8, 8), generator=named_generator("images")) + 1


FIELD = SplitGanConfig.__dataclass_fields__["augmentation"]
#: Of the setting's choices, those that augment.
KINDS = [kind for kind in FIELD.metadata["choices"] if kind != "none"]


def test_by_default_nothing_is_augmented_and_all_that_there_is_can_be_chosen() -> None:
    assert FIELD.default == "none"
    assert {name for kind in KINDS for name in kind.split("+")} == {"color", "translation", "cutout"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_stream_gives_the_same_images_and_another_does_not(kind: str) -> None:
    one, same, other = (augment(IMAGES, kind, named_generator(name)) for name in ("a", "a", "b"))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, IMAGES)
    assert one.shape == IMAGES.shape


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_finite_differences(kind: str) -> None:
    x = IMAGES[:2].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda images: augment(images, kind, named_generator("c")), (x,))


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_a_translation_moves_each_image_by_a_pixel_at_most_and_lets_zeros_in(seed: int) -> None:
    moved = augment(IMAGES, "translation", named_generator(seed))
    for before, after in zip(IMAGES, moved, strict=True):
        fits = []
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                shifted = torch.zeros_like(before)
                to = [slice(max(0, d), 8 + min(0, d)) for d in (dy, dx)]
                of = [slice(max(0, -d), 8 + min(0, -d)) for d in (dy, dx)]
                shifted[:, to[0], to[1]] = before[:, of[0], of[1]]
                fits.append(torch.equal(shifted, after))
        assert sum(fits) == 1


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_a_hole_is_a_rectangle_of_half_the_side_at_most(seed: int) -> None:
    ones = torch.ones_like(IMAGES)
    generator = named_generator(seed)
    moved = augment(ones, "translation", named_generator(seed))
    holed = augment(ones, "translation+cutout", generator)
    for before, after in zip(moved, holed, strict=True):
        cut = ((before == 1) & (after == 0)).all(dim=0)
        assert torch.equal(after, before * ~cut)
        rows, columns = cut.any(dim=1), cut.any(dim=0)
        assert torch.equal(cut, rows[:, None] & columns)
        assert max(int(rows.sum()), int(columns.sum())) <= 4
        # Centred on a corner a quarter of it is in the image, and a translation may have taken a row of that.
        assert min(int(rows.sum()), int(columns.sum())) >= 1
