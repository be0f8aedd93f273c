"""Several data sets in one federation: each is a domain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from collafuse_flwr.data.images import ImageMetadata, LazyImageDataset, decode
from collafuse_flwr.data.report import DataReport, joined


def concat_datasets(sources: Sequence[LazyImageDataset], image_size: int, same: str = "name") -> LazyImageDataset:
    """One after the other, with the group `domain`; classes are the same if they have the same name, or number.

    Images are resized set by set, and greyscale ones become RGB if others are. Attributes are kept if all sets have the
    same. Of other groups than the domain one is kept if all sets have it, or if it must not be separated: then an image
    of another set is a group of its own.
    """
    called = [_called(source, same) for source in sources]
    names = tuple(dict.fromkeys(name for own in called for name in own))
    sizes = torch.tensor([len(source.labels) for source in sources])
    starts = [0, *sizes.cumsum(0).tolist()]
    renamed = [
        torch.tensor([names.index(name) for name in own])[source.labels]
        for own, source in zip(called, sources, strict=True)
    ]

    def parts(indices: Tensor) -> Iterable[tuple[LazyImageDataset, Tensor]]:
        for source, begin, end in zip(sources, starts[:-1], starts[1:], strict=True):
            own = indices[(indices >= begin) & (indices < end)] - begin
            if len(own):
                yield source, own

    # Filled as images are read: to read them once more would unpack a compressed file from its beginning.
    sides = torch.zeros(starts[-1], dtype=torch.int64)

    def read(indices: Tensor) -> Tensor:
        decoded = [decode(source, own, image_size) for source, own in parts(indices)]
        sides[indices] = torch.cat([part.native_sides for part in decoded])
        channels = max(part.pixels.shape[1] for part in decoded)
        return torch.cat([part.pixels.expand(-1, channels, -1, -1) for part in decoded])

    def files(indices: Tensor) -> Iterable[Path]:
        return (path for source, own in parts(indices) for path in source.files(own))

    def survey() -> DataReport:
        return joined(source.survey() if source.survey else DataReport() for source in sources)

    return LazyImageDataset(
        torch.cat(renamed),
        names,
        read,
        files,
        _facts(sources, sizes),
        lambda indices: sides[indices],
        joined(source.report for source in sources),
        survey if any(source.survey for source in sources) else None,
    )


def _called(source: LazyImageDataset, same: str) -> tuple[str, ...]:
    """What a set's classes are called in all sets together: as in it, or by their number."""
    return source.class_names if same == "name" else tuple(map(str, range(len(source.class_names))))


def _facts(sources: Sequence[LazyImageDataset], sizes: Tensor) -> ImageMetadata:
    attribute_names = {source.metadata.attribute_names for source in sources}
    attributes = [source.metadata.attributes for source in sources if source.metadata.attributes is not None]
    shared = len(attribute_names) == 1 and len(attributes) == len(sources)
    group_key = next((source.metadata.group_key for source in sources if source.metadata.group_key), "")
    groups = {"domain": torch.arange(len(sources)).repeat_interleave(sizes)}
    for name in {name for source in sources for name in source.metadata.groups}:
        if name == group_key or all(name in source.metadata.groups for source in sources):
            groups[name] = _group(sources, name)
    return ImageMetadata(
        torch.cat(attributes) if shared else None, attribute_names.pop() if shared else (), groups, group_key
    )


def _group(sources: Sequence[LazyImageDataset], name: str) -> Tensor:
    """The groups of all sets, counted on from one to the next."""
    parts: list[Tensor] = []
    begin = 0
    for source in sources:
        own = source.metadata.groups.get(name, torch.arange(len(source.labels)))
        parts.append(own + begin)
        begin += int(own.max()) + 1 if len(own) else 0
    return torch.cat(parts)
