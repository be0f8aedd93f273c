"""One image file as pixels: upright, laid on a colour where it is transparent, and with all of its bits."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

Colour: TypeAlias = tuple[int, int, int]
#: Which values become black and white.
Window: TypeAlias = tuple[float, float]
#: An image as it is stored: a file, or the bytes of one.
Encoded: TypeAlias = Path | bytes

#: Files that are taken for images, by their endings. HEIC needs the plug-in pillow-heif.
EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff"}
    | {".webp", ".gif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif"}
)
HEIC = frozenset([".heic", ".heif", ".hif"])
#: What Pillow calls 16 bits a channel, of which it keeps 8. In `BGR;16` and the like 16 bits are three channels.
_DEEP_COLOUR = re.compile(r"^(LA|RGB[AaX]?|CMYK);16")
#: The same with the two bytes of a value in the other order.
_OTHER_BYTE = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
}
#: And what it calls them of grey with opacity.
_DEEP_GREY_ALPHA = "LA;16B"
#: Pillow's limit on pixels is one number for the whole process.
_OPENING = threading.Lock()


@dataclass(frozen=True)
class ImageKind:
    """What the header of a file tells: grey or colour, more than 8 bits a value, transparency, and several pictures."""

    grey: bool
    deep: bool
    transparent: bool
    several: bool
    size: tuple[int, int]

    @classmethod
    def of(cls, image: Image.Image) -> ImageKind:
        """The kind of an image that is open, of which no pixel is read."""
        raw = _raw_modes(image)
        deep_colour = any(map(_DEEP_COLOUR.match, raw))
        deep_grey = image.mode.startswith(("I", "F"))
        grey = deep_grey or image.mode in {"1", "L", "LA", "La"} or any(mode.startswith("LA;16") for mode in raw)
        grey = grey or _has_grey_palette(image)
        # A photograph in MPO has a small copy of itself behind it, which is no second picture.
        several = image.format != "MPO" and bool(getattr(image, "is_animated", False))
        size = (image.width, image.height) if _lies_on_its_side(image) else (image.height, image.width)
        return cls(grey, deep_grey or deep_colour, image.has_transparency_data, several, size)


@dataclass(frozen=True)
class DeepValues:
    """Values of an image of more than 8 bits, (H, W, 1 or 3), float64, and how opaque each pixel is, (H, W, 1)."""

    values: NDArray[np.float64]
    opacity: NDArray[np.float64]

    def visible_range(self) -> Window | None:
        """The least and the largest value that shows; None if there is none."""
        seen = self.values[np.broadcast_to(self.opacity > 0, self.values.shape)]
        finite = seen[np.isfinite(seen)]
        return (float(finite.min()), float(finite.max())) if finite.size else None

    def pixels(self, window: tuple[float, float], background: Colour) -> NDArray[np.uint8]:
        """The image as (H, W, 3), uint8: the window's ends become black and white, what is not finite black."""
        scaled = scale_to_bytes(self.values, window).astype(np.float64)
        laid = scaled * self.opacity + np.array(background) * (1 - self.opacity)
        return laid.round().astype(np.uint8)


def scale_to_bytes(values: NDArray[np.floating], window: Window) -> NDArray[np.uint8]:
    """Values of any shape as grey: low and below become 0, high and above 255, and what is no number 0."""
    low, high = window
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return (np.nan_to_num(share, nan=0.0).clip(0, 1) * 255).round().astype(np.uint8)


def has_heic() -> bool:
    """Whether HEIC can be read: if the plug-in is installed, it is registered with Pillow."""
    with suppress(ImportError):
        import pillow_heif  # noqa: PLC0415 - installed by those who have such files

        pillow_heif.register_heif_opener()
        return True
    return False


@contextmanager
def opened(encoded: Encoded, max_pixels: int) -> Iterator[Image.Image]:
    """An image of which the header is read.

    Raises:
        ValueError: it has more pixels than `max_pixels`.
        Exception: it is damaged (almost anything).
    """
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(_stream(encoded))
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        if image.width * image.height > max_pixels:
            size = f"it has {image.width} x {image.height} pixels"
            raise ValueError(f"{size}, and `data.max_pixels` = {max_pixels} allows no more than that")
        yield image


def read_pixels(image: Image.Image, background: Colour, grey: bool) -> NDArray[np.uint8]:
    """The pixels of an image of 8 bits a value, as (H, W, 1) if it shall be `grey`, else (H, W, 3)."""
    turned = _upright(image)
    if turned.has_transparency_data:
        base = Image.new("RGBA", turned.size, (*background, 255))
        base.alpha_composite(turned.convert("RGBA"))
        turned = base
    if not grey:
        return np.array(turned.convert("RGB"))
    plain = turned if turned.mode in {"1", "L"} else turned.convert("RGB")
    return np.array(plain.convert("L"))[..., None]


def read_deep(image: Image.Image, encoded: Encoded) -> DeepValues:
    """The values of an image of more than 8 bits.

    Raises:
        ValueError: it is of a form of which Pillow keeps 8.
    """
    if image.mode.startswith(("I", "F")):
        values = np.array(_upright(image), np.float64)[..., None]
        return DeepValues(values, np.ones_like(values))
    if image.mode == "RGBA" and set(_raw_modes(image)) == {_DEEP_GREY_ALPHA}:
        # Two bytes of grey and two of opacity, which are as many as RGBA has.
        pairs = _read_as(encoded, lambda _: "RGBA")
        both = pairs[..., ::2] * 256 + pairs[..., 1::2]
        return DeepValues(both[..., :1], both[..., 1:] / np.iinfo(np.uint16).max)
    low_bytes = [_OTHER_BYTE.get(mode) for mode in _raw_modes(image)]
    if image.mode not in {"RGB", "RGBA"} or None in low_bytes:
        raise ValueError("its 16 bits a channel are read of grey and RGB alone, and of PNG and TIFF")
    # Pillow keeps one byte of two: the upper one, or, if the mode names the other byte order, the lower one.
    lower = _read_as(encoded, lambda mode: _OTHER_BYTE[mode])
    both = np.array(_upright(image), np.float64) * 256 + lower
    if image.mode == "RGB":
        return DeepValues(both, np.ones_like(both[..., :1]))
    return DeepValues(both[..., :3], both[..., 3:] / np.iinfo(np.uint16).max)


def _read_as(encoded: Encoded, raw_mode: Callable[[str], str]) -> NDArray[np.float64]:
    """The pixels, upright, as if the file held them in another raw mode."""
    with Image.open(_stream(encoded)) as image:
        modes = map(raw_mode, _raw_modes(image))
        image.tile = [
            tile._replace(args=_with_mode(tile.args, own)) for tile, own in zip(image.tile, modes, strict=True)
        ]
        return np.array(_upright(image), np.float64)


def _with_mode(arguments: Any, mode: str) -> Any:
    return (mode, *arguments[1:]) if isinstance(arguments, tuple) else mode


def _upright(image: Image.Image) -> Image.Image:
    """An image as its camera says that it is held; as it lies where that cannot be read."""
    with suppress(SyntaxError, ValueError, KeyError):
        return ImageOps.exif_transpose(image)
    return image


def _stream(encoded: Encoded) -> Path | BytesIO:
    return BytesIO(encoded) if isinstance(encoded, bytes) else encoded


def _has_grey_palette(image: Image.Image) -> bool:
    """Whether it chooses among greys: a GIF has no other way to be grey."""
    palette = (image.getpalette("RGB") if image.mode == "P" else None) or []
    return bool(palette) and all(len({*palette[i : i + 3]}) == 1 for i in range(0, len(palette), 3))


def _lies_on_its_side(image: Image.Image) -> bool:
    with suppress(SyntaxError, ValueError, KeyError):
        # Not the method of PNG, which decodes the image first.
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in {5, 6, 7, 8}
    return False


def _raw_modes(image: Image.Image) -> list[str]:
    """How the file holds its pixels, in Pillow's words."""
    modes = []
    for tile in getattr(image, "tile", ()):
        arguments = tile[3]
        first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
        modes.append(str(first))
    return modes
