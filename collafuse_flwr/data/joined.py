"""Several data sets in one federation: each is a domain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from collafuse_flwr.data.images import Facts, Source, fit


def joined(sources: Sequence[Source], image_size: int, same: str = "name") -> Source:
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

    def parts(indices: Tensor) -> Iterable[tuple[Source, Tensor]]:
        for source, begin, end in zip(sources, starts[:-1], starts[1:], strict=True):
            own = indices[(indices >= begin) & (indices < end)] - begin
            if len(own):
                yield source, own

    def read(indices: Tensor) -> Tensor:
        images = [fit(source.read(own), image_size) for source, own in parts(indices)]
        channels = max(part.shape[1] for part in images)
        return torch.cat([part.expand(-1, channels, -1, -1) for part in images])

    def files(indices: Tensor) -> Iterable[Path]:
        return (path for source, own in parts(indices) for path in source.files(own))

    return Source(torch.cat(renamed), names, read, files, _facts(sources, sizes))


def _called(source: Source, same: str) -> tuple[str, ...]:
    """What a set's classes are called in all sets together: as in it, or by their number."""
    return source.class_names if same == "name" else tuple(map(str, range(len(source.class_names))))


def _facts(sources: Sequence[Source], sizes: Tensor) -> Facts:
    attribute_names = {source.facts.attribute_names for source in sources}
    attributes = [source.facts.attributes for source in sources if source.facts.attributes is not None]
    shared = len(attribute_names) == 1 and len(attributes) == len(sources)
    inseparable = next((source.facts.inseparable for source in sources if source.facts.inseparable), "")
    groups = {"domain": torch.arange(len(sources)).repeat_interleave(sizes)}
    for name in {name for source in sources for name in source.facts.groups}:
        if name == inseparable or all(name in source.facts.groups for source in sources):
            groups[name] = _group(sources, name)
    return Facts(
        torch.cat(attributes) if shared else None, attribute_names.pop() if shared else (), groups, inseparable
    )


def _group(sources: Sequence[Source], name: str) -> Tensor:
    """The groups of all sets, counted on from one to the next."""
    parts: list[Tensor] = []
    begin = 0
    for source in sources:
        own = source.facts.groups.get(name, torch.arange(len(source.labels)))
        parts.append(own + begin)
        begin += int(own.max()) + 1 if len(own) else 0
    return torch.cat(parts)
