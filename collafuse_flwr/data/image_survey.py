"""What all images of a set decide together: grey or colour, and which values are shown of more than 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from collafuse_flwr.core.progress import counted
from collafuse_flwr.data.image_decoding import ImageKind, Window
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.data.validation import data_error


@dataclass(frozen=True)
class Survey:
    """How the images of a set are read.

    Attributes:
        channels: 1 if most are grey, else 3.
        window: which values of more than 8 bits become black and white; None if nothing says so.
        first: name, height and width of the first image.
        report: what is to be said.
    """

    channels: int
    window: Window | None
    first: tuple[str, tuple[int, int]] | None = None
    report: DataReport = field(default_factory=DataReport)


def survey_images(
    config: DataConfig,
    paths: Sequence[str],
    kind_of: Callable[[int], ImageKind | None],
    range_of: Callable[[int], Window | None],
    stated: Window | None,
) -> Survey:
    """Look at the headers of all images of a set, and at the values of those of more than 8 bits.

    Args:
        config: the settings.
        paths: the files.
        kind_of: what the header of the image with an index tells; None if it cannot be read.
        range_of: its least and largest value, None if it has none.
        stated: the window, if the settings say it.

    Raises:
        DataError: there are values of more than 8 bits, but none that is finite.
    """
    kinds: dict[int, ImageKind] = {}
    for i in counted(range(len(paths)), f"looking at images of {config.name}", total=len(paths)):
        if kind := kind_of(i):
            kinds[i] = kind
    deep = [i for i, kind in kinds.items() if kind.deep]
    window = stated or (_own_range(config, deep, range_of) if deep else None)
    grey = [i for i, kind in kinds.items() if kind.grey]
    colour = [i for i, kind in kinds.items() if not kind.grey]
    channels = 1 if len(grey) > len(colour) else 3
    first = next(iter(kinds), None)
    return Survey(
        channels,
        window,
        None if first is None else (Path(paths[first]).name, kinds[first].size),
        _depth(paths, deep, window, "`data.window`" if stated else "their own range")
        + _converted(paths, colour if channels == 1 else grey, channels)
        + _remarks(config, paths, kinds),
    )


def _own_range(config: DataConfig, deep: Sequence[int], range_of: Callable[[int], Window | None]) -> Window:
    """The least and the largest value of all images together."""
    ranges = [own for i in counted(deep, "looking for the range of values", total=len(deep)) if (own := range_of(i))]
    if not ranges:
        raise data_error(config, "its images of more than 8 bits a value hold no value that is a finite number")
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _depth(paths: Sequence[str], deep: Sequence[int], window: Window | None, whence: str) -> DataReport:
    if not deep or window is None:
        return DataReport()
    low, high = window
    line = f"{_images(paths, deep)} more than 8 bits a value: {low:g} to {high:g} ({whence}) become black to white"
    return DataReport((line,), {"window": [low, high]})


def _converted(paths: Sequence[str], others: Sequence[int], channels: int) -> DataReport:
    if not others:
        return DataReport()
    most, minority = ("grey", "colour") if channels == 1 else ("colour", "grey")
    line = f"{_images(paths, others)} been made {most}, as most are, from {minority}"
    return DataReport((line,), {"converted": [paths[i] for i in others]})


def _remarks(config: DataConfig, paths: Sequence[str], kinds: Mapping[int, ImageKind]) -> DataReport:
    transparent = [i for i, kind in kinds.items() if kind.transparent]
    several = [i for i, kind in kinds.items() if kind.several]
    lines = []
    if transparent:
        lines.append(f"{_images(paths, transparent)} transparency: laid on `data.background` = {config.background}")
    if several:
        lines.append(f"{_images(paths, several)} several pages or frames, of which the first is read")
    return DataReport(tuple(lines))


def _images(paths: Sequence[str], which: Sequence[int]) -> str:
    """How many images, of how many, and one of them: the beginning of a sentence that goes on with what they have."""
    verb = "has" if len(which) == 1 else "have"
    return f"{len(which)} of {len(paths)} images ({Path(paths[which[0]]).name}) {verb}"
