"""What is to be said of a data set: how its images were read, and which were not."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DataReport:
    """One line for each thing that is to be said, and by name what a run keeps of it in its folder, as JSON has it."""

    lines: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __add__(self, other: DataReport) -> DataReport:
        facts = dict(self.facts)
        for name, value in other.facts.items():
            # Those of the sets of a list are below their places.
            nested = isinstance(value, Mapping) and name in facts
            facts[name] = {**facts[name], **value} if nested else value
        return DataReport(self.lines + other.lines, facts)

    def as_json(self) -> dict[str, Any]:
        """Everything in one object."""
        return {"lines": list(self.lines), **self.facts}

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> DataReport:
        """What `as_json` gave."""
        return cls(tuple(content["lines"]), {name: value for name, value in content.items() if name != "lines"})


def joined(reports: Iterable[DataReport]) -> DataReport:
    """The reports of several data sets: all lines, and the facts of each by its place."""
    reports = list(reports)
    facts = {str(place): dict(report.facts) for place, report in enumerate(reports) if report.facts}
    return DataReport(tuple(line for report in reports for line in report.lines), facts)


def reading_report(pixels: NDArray[np.uint8], sides: NDArray[np.int64], name: Callable[[int], str]) -> DataReport:
    """What is to be said of images (n, ...) once they are read: which were skipped, and which are equal.

    Args:
        pixels: the images.
        sides: their native sides; 0 of those that were skipped.
        name: the name of the image in a row.
    """
    skipped = [name(row) for row in np.flatnonzero(sides == 0).tolist()]
    lines: list[str] = []
    facts: dict[str, Any] = {}
    if skipped:
        facts["skipped"] = skipped
        lines.append(f"{len(skipped)} of {len(sides)} images cannot be read and are left out, as {skipped[0]} is")
    equal = [[name(row) for row in rows] for rows in equal_images(pixels, np.flatnonzero(sides))]
    if equal:
        facts["equal"] = equal
        count = sum(map(len, equal))
        lines.append(
            f"{count} of {len(sides)} images are equal to another one, as {equal[0][0]} and {equal[0][1]} are: what is "
            "stated of the privacy of one image does not hold for these"
        )
    return DataReport(tuple(lines), facts)


def equal_images(pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> list[list[int]]:
    """Those of `rows` of images (n, ...) that are equal to another one in every byte, group by group.

    Whoever reads that one image is protected takes it to be in the set once.
    """
    rows_of: dict[bytes, list[int]] = defaultdict(list)
    for row in rows.tolist():
        rows_of[hashlib.blake2b(pixels[row].tobytes(), digest_size=16).digest()].append(row)
    return [equal for equal in rows_of.values() if len(equal) > 1]
