"""What a backbone trains on: the clients' uploads, beside public images where there are any."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.data.conditioning import conditioning_labels
from collafuse_flwr.data.images import ImageSource, normalize
from collafuse_flwr.data.public import load_public_images
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.runs.summary import simulated_data
from collafuse_flwr.runs.upload_buffer import LimitedRows, UploadBuffer
from collafuse_flwr.setup.privacy import clip


@dataclass(frozen=True)
class UploadsAndImages:
    """Uploads at their cuts, and then clean images at step 0, as one source of batches."""

    uploads: UploadBuffer | LimitedRows
    images: ImageSource

    def __len__(self) -> int:
        return len(self.uploads) + len(self.images)

    @property
    def cuts(self) -> Tensor:
        """The step that each row begins at."""
        return torch.cat([self.uploads.cuts, torch.zeros(len(self.images), dtype=torch.int64)])

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows as (x, start step, labels or None), the uploads among them first: their order says nothing."""
        from_uploads = rows < len(self.uploads)
        if not bool(from_uploads.any()):
            return self.images.batch(rows - len(self.uploads))
        parts = [self.uploads.batch(rows[from_uploads]), self.images.batch(rows[~from_uploads] - len(self.uploads))]
        x, start, labels = zip(*parts, strict=True)
        return torch.cat(x), torch.cat(start), None if labels[0] is None else torch.cat(labels)


def public_source(
    config: Config, layout: RunLayout, shape: tuple[int, int, int, int], device: torch.device
) -> ImageSource | None:
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
    return ImageSource(x_0.to(device), None if labels is None else labels.to(device))
