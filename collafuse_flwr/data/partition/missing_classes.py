"""Dealing to clients that lack classes and differ in size (the scenarios of HuSCF-GAN, arXiv 2507.12979)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from collafuse_flwr.core.errors import DataError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.settings import DataConfig, missing_classes, size_skew

T = TypeVar("T", int, float)


def drop_classes(labels: Tensor, config: DataConfig, num_clients: int, seed: int) -> list[Tensor]:
    """Deal images of all classes but some to each client, drawn as `data.missing_classes` and `data.size_skew` say.

    With s_c images of class c, and A_i the classes that client i of size n_i has, it gets

        n_i s_c / sum_(a in A_i) s_a    for c in A_i

    images, n_i in all: fewer where clients together want more of a class than there is, each by the same factor. Images
    that nobody wants are not dealt.

    Raises:
        DataError: a client would lack every class.
    """
    supply = labels.bincount()
    present = supply.nonzero().flatten()
    dropped = _each(missing_classes(config), num_clients, named_generator(seed, "dropped classes"))
    if max(dropped) >= len(present):
        raise DataError(
            f"`data.missing_classes` drops {max(dropped)} classes, but only {len(present)} "
            f"have images; expected at most {len(present) - 1}"
        )
    has = torch.zeros((num_clients, len(supply)), dtype=torch.float64)
    for client, count in enumerate(dropped):
        order = torch.randperm(len(present), generator=named_generator(seed, "classes", client))
        has[client, present[order[count:]]] = 1
    most = min(config.max_client_images or len(labels), len(labels) // num_clients)
    sizes = [part * most for part in _each(size_skew(config), num_clients, named_generator(seed, "sizes"))]
    wanted = has * supply
    wanted *= torch.tensor(sizes, dtype=torch.float64)[:, None] / wanted.sum(1, keepdim=True)
    wanted *= (supply / wanted.sum(0).clamp(min=1e-9)).clamp(max=1)
    # Rounded along the classes, so that a client's size is its own to within one image.
    counts = wanted.cumsum(1).round().diff(dim=1, prepend=torch.zeros(num_clients, 1)).long()
    return _slices(labels, counts, seed)


def _each(shares: Mapping[T, float], num_clients: int, generator: torch.Generator) -> list[T]:
    """The value of every client, in random order: of each as many as is its share, by largest remainders."""
    quotas = {value: share * num_clients for value, share in shares.items()}
    counts = {value: int(quota + 1e-9) for value, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda value: round(counts[value] - quotas[value], 9))
    for value in by_remainder[: num_clients - sum(counts.values())]:
        counts[value] += 1
    values = [value for value, count in counts.items() for _ in range(count)]
    return [values[i] for i in torch.randperm(num_clients, generator=generator).tolist()]


def _slices(labels: Tensor, counts: Tensor, seed: int) -> list[Tensor]:
    """Every client's images, shuffled by class: `counts`, (clients, classes), of each; the last may find fewer."""
    parts: list[list[Tensor]] = [[] for _ in counts]
    for label, column in enumerate(counts.T.tolist()):
        rows = (labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=named_generator(seed, "partition", label))]
        left = len(rows)
        for part, count in zip(parts, column, strict=True):
            part.append(rows[len(rows) - left :][:count])
            left -= min(left, count)
    return [torch.cat(part) for part in parts]
