"""What a backbone trains on: the clients' uploads, beside public images where there are any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.data.conditioning import conditioning_labels
from collafuse_flwr.data.images import ImageSource, normalize
from collafuse_flwr.data.public import load_public_images
from collafuse_flwr.diffusion.train import BatchSource
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.runs.summary import simulated_data
from collafuse_flwr.setup.privacy import clip


class Rows(BatchSource, Protocol):
    """A source of batches that can tell the step that each of its rows begins at."""

    @property
    def cuts(self) -> Tensor:
        """Shape (rows,), int64."""


@dataclass(frozen=True)
class PublicImages(ImageSource):
    """Clean images, which begin at step 0."""

    @property
    def cuts(self) -> Tensor:
        """Shape (rows,), int64."""
        return torch.zeros(len(self), dtype=torch.int64)


@dataclass(frozen=True)
class Joined:
    """The rows of several sources, one source after the other, as one source of batches."""

    parts: tuple[Rows, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def cuts(self) -> Tensor:
        """The step that each row begins at."""
        return torch.cat([part.cuts for part in self.parts])

    def places(self, rows: Tensor) -> list[Tensor]:
        """Of each source, where its rows are among `rows`; `batch` gives them in this order."""
        ends = torch.tensor([len(part) for part in self.parts]).cumsum(0).tolist()
        return [
            ((rows >= end - len(part)) & (rows < end)).nonzero().flatten()
            for part, end in zip(self.parts, ends, strict=True)
        ]

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows as (x, start step, labels or None), those of the first source first: their order says nothing."""
        taken, begin = [], 0
        for part, own in zip(self.parts, self.places(rows), strict=True):
            if len(own):
                taken.append(part.batch(rows[own] - begin))
            begin += len(part)
        x, start, labels = zip(*taken, strict=True)
        return torch.cat(x), torch.cat(start), None if labels[0] is None else torch.cat(labels)


def public_source(
    config: Config, layout: RunLayout, shape: tuple[int, int, int, int], device: torch.device
) -> PublicImages | None:
    """The public images that the settings name, with labels where the backbone is conditioned; None where none are.

    Raises:
        UserError: they cannot be had, or do not fit the clients' images.
    """
    data = simulated_data(config, layout)
    images = load_public_images(
        config.public, config.data, shape, None if data is None else data.images, config.run.seed
    )
    if images is None:
        return None
    labels = conditioning_labels(config.data.conditioning, images) if config.shares_labels() else None
    # As the images that were uploaded: one contrast for all.
    x_0 = clip(config, normalize(images.images))
    return PublicImages(x_0.to(device), None if labels is None else labels.to(device))
