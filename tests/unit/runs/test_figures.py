"""Pictures show the images that they are given: as they are, clamped where they must be, and never half written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from collafuse_flwr.runs import figures as module
from collafuse_flwr.runs.figures import draw_curves, draw_overview, save_grid

PADDING = 2


def pixels(path: Path) -> NDArray[np.uint8]:
    """The picture, checked to be a PNG, as (height, width, 3)."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def cell(picture: NDArray[np.uint8], row: int, column: int, side: int) -> NDArray[np.uint8]:
    top, left = (PADDING + place * (side + PADDING) for place in (row, column))
    return picture[top : top + side, left : left + side]


@pytest.mark.parametrize(
    ("count", "columns", "rows", "across"), [(10, 5, 2, 5), (7, 5, 2, 5), (3, 10, 1, 3), (1, 1, 1, 1)]
)
@pytest.mark.parametrize(("size", "side"), [(8, 48), (28, 28), (20, 40), (64, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_has_a_cell_for_each_image_and_small_ones_are_enlarged(
    tmp_path: Path, count: int, columns: int, rows: int, across: int, size: int, side: int, channels: int
) -> None:
    save_grid(torch.zeros(count, channels, size, size), tmp_path / "grid.png", columns)
    # torchvision draws no border around a single image.
    border = 0 if count == 1 else PADDING
    expected = (rows * (side + border) + border, across * (side + border) + border, 3)
    assert pixels(tmp_path / "grid.png").shape == expected


@pytest.mark.parametrize(
    ("value", "shown"),
    [(-1.0, 0), (1.0, 255), (0.0, 128), (1.3, 255), (100.0, 255), (-1.3, 0), (-100.0, 0), (0.5, 191), (-0.5, 64)],
)
def test_values_are_shown_as_grey_levels_and_clamped_beyond_not_wrapped(
    tmp_path: Path, value: float, shown: int
) -> None:
    save_grid(torch.full((4, 1, 8, 8), value), tmp_path / "grid.png", 2)
    picture = pixels(tmp_path / "grid.png")
    for row in (0, 1):
        for column in (0, 1):
            assert set(np.unique(cell(picture, row, column, 48))) == {shown}


def test_every_image_is_in_its_place_with_its_pixels_and_colours(tmp_path: Path) -> None:
    """Each pixel of 8 x 8 is a square of 6 x 6, row by row, in the colour that it has."""
    levels = torch.randint(0, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    save_grid(levels / 127.5 - 1, tmp_path / "grid.png", 3)
    picture = pixels(tmp_path / "grid.png")
    for place, image in enumerate(levels):
        shown = cell(picture, place // 3, place % 3, 48)
        expected = image.permute(1, 2, 0).repeat_interleave(6, 0).repeat_interleave(6, 1).numpy()
        assert np.abs(shown.astype(int) - expected).max() <= 1


def test_saving_leaves_the_images_alone(tmp_path: Path) -> None:
    images = torch.full((2, 1, 8, 8), 1.3)
    save_grid(images, tmp_path / "deep" / "er" / "grid.png")
    assert (images == 1.3).all()
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["grid.png"]


def test_a_picture_that_cannot_be_drawn_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    save_grid(torch.zeros(2, 1, 8, 8), path)
    before = path.read_bytes()
    with pytest.raises(Exception, match=r".+"):
        save_grid(torch.zeros(2, 7, 8, 8), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def rows_of(count: int, channels: int = 1) -> list[tuple[str, Tensor]]:
    return [(name, torch.full((count, channels, 8, 8), value)) for name, value in (("above", 1.3), ("below", -1.3))]


@pytest.mark.parametrize("count", [1, 4, 12])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_overview_is_as_wide_as_its_rows_are_long(tmp_path: Path, count: int, channels: int) -> None:
    draw_overview(rows_of(count, channels), tmp_path / "overview.png", "digits")
    height, width, _ = pixels(tmp_path / "overview.png").shape
    assert height == pytest.approx(150 * (0.45 + 0.68 * 2), abs=1)
    assert width == pytest.approx(150 * (1.9 + 0.62 * count), abs=1)


def test_the_rows_of_an_overview_are_one_above_the_other_and_clamped(tmp_path: Path) -> None:
    """White above black, where 1.3 and -1.3 were given."""
    draw_overview(rows_of(6), tmp_path / "overview.png", "digits")
    picture = pixels(tmp_path / "overview.png").astype(int).mean(axis=2)
    right = picture[:, picture.shape[1] // 2 :]
    dark = np.flatnonzero((right < 20).mean(axis=1) > 0.5)
    bright = np.flatnonzero((right[30 : dark.min()] > 235).mean(axis=1) > 0.9)
    assert dark.min() > picture.shape[0] * 0.5
    assert len(dark) > 60
    assert len(bright) > 60


def test_rows_of_different_lengths_and_kinds_fit_in_one_overview(tmp_path: Path) -> None:
    rows = [("images of one", torch.zeros(1, 1, 8, 8)), ("and of twelve", torch.zeros(12, 1, 8, 8))]
    draw_overview(rows, tmp_path / "overview.png", "digits")
    assert pixels(tmp_path / "overview.png").std() > 0


def a_row(number: int, backbone: float | None, **clients: float | None) -> dict[str, Any]:
    own = {
        name.removeprefix("c"): {"loss": 0.0 if loss is None else loss, "steps": 0 if loss is None else 3}
        for name, loss in clients.items()
    }
    return {"round": number, "server": {} if backbone is None else {"loss": backbone}, "clients": own}


CURVES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "both": (
        [a_row(1, 0.5, c0=0.2, c1=0.3), a_row(2, 0.4, c1=0.2)],
        [{"client": 0, "fd": 12.0}, {"client": 1, "fd": 3.0}],
    ),
    "no client ever trained": ([a_row(1, 0.5, c0=None)], [{"client": 0, "fd": 12.0}]),
    "no backbone": ([a_row(1, None, c0=0.2)], [{"client": 0, "fd": None}]),
    "nobody trained": ([a_row(1, None, c0=None)], [{"client": 0}]),
    "nobody came": ([a_row(1, None)], []),
}


@pytest.mark.parametrize("name", CURVES)
def test_curves_are_drawn_of_whatever_there_is(tmp_path: Path, name: str) -> None:
    """And without a warning, which would fail here."""
    draw_curves(*CURVES[name], tmp_path / "curves.png")
    assert pixels(tmp_path / "curves.png").shape == (384, 1080, 3)


def _has(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(picture.astype(int) - colour).sum(axis=2) < 12).any())


@pytest.mark.parametrize(("name", "backbone", "quality"), [("both", True, True), ("no backbone", False, False)])
def test_a_curve_is_there_if_there_is_something_to_show(
    tmp_path: Path, name: str, backbone: bool, quality: bool
) -> None:
    """The backbone is matplotlib's blue, quality its green."""
    draw_curves(*CURVES[name], tmp_path / "curves.png")
    picture = pixels(tmp_path / "curves.png")
    assert _has(picture, (31, 119, 180)) == backbone
    assert _has(picture, (44, 160, 44)) == quality


def test_the_clients_have_a_legend_when_the_first_of_them_never_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at `cut.client_ratios` = [0, 0.3, 1]."""
    labels: list[str | None] = []
    original = module.__dict__["_line"]

    def watched(axis: Any, x: list[int], y: list[float | None], label: str | None, **style: Any) -> None:
        if any(value is not None for value in y):
            labels.append(label)
        original(axis, x, y, label, **style)

    monkeypatch.setattr(module, "_line", watched)
    draw_curves([a_row(1, 0.5, c0=None, c1=0.3, c2=0.2)], [], tmp_path / "curves.png")
    assert labels == ["backbone (t > k)", "clients (t <= k)", None]


def test_rows_of_an_overview_begin_at_one_place_however_many_images_they_have(tmp_path: Path) -> None:
    red = torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 8, 8)
    draw_overview([("few", red.expand(2, 3, 8, 8)), ("many", red.expand(6, 3, 8, 8))], tmp_path / "a.png", "title")
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    is_red = (pixels[..., 0] > 200) & (pixels[..., 1:].max(-1) < 60)
    places = {int(row.argmax()) for row in is_red if row.any()}
    assert max(places) - min(places) <= 2
