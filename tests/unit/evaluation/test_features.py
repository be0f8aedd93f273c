from __future__ import annotations

import torch
from torch import Tensor, nn

from collafuse_flwr.data.images import normalize
from collafuse_flwr.evaluation.features import PixelFeatures, extract_features


class Recorder(nn.Module):
    """Keeps what it was called with, and how."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        self.modes.append(self.training)
        return images.flatten(1)


def test_images_arrive_unaltered_in_evaluation_mode_and_the_mode_is_restored() -> None:
    images = torch.rand(7, 3, 8, 8) * 2 - 1
    recorder = Recorder().train()
    features = extract_features(images, recorder, batch_size=3)
    assert torch.equal(torch.cat(recorder.seen), images)
    assert recorder.modes == [False] * 3
    assert recorder.training
    assert features.dtype == torch.float64
    assert torch.equal(features.float(), images.flatten(1))


def test_no_gradient_is_kept() -> None:
    assert not extract_features(torch.zeros(2, 4), nn.Linear(4, 3)).requires_grad


def test_pixels_are_flattened() -> None:
    images = torch.arange(8.0).reshape(2, 1, 2, 2)
    assert torch.equal(PixelFeatures()(images), torch.arange(8.0).reshape(2, 4))


def test_uint8_is_scaled_batch_by_batch_to_the_same_bits() -> None:
    pixels = torch.arange(7 * 48).remainder(256).to(torch.uint8).view(7, 3, 4, 4)
    recorder = Recorder()
    features = extract_features(pixels, recorder, batch_size=3)
    assert [len(batch) for batch in recorder.seen] == [3, 3, 1]
    assert torch.equal(features, extract_features(normalize(pixels), PixelFeatures()))


def test_rows_are_the_images_at_them_in_their_order() -> None:
    pixels, rows = torch.arange(10, dtype=torch.uint8).view(5, 2), torch.tensor([4, 0, 2])
    recorder = Recorder()
    features = extract_features(pixels, recorder, batch_size=2, rows=rows)
    assert [len(batch) for batch in recorder.seen] == [2, 1]
    assert torch.equal(features, extract_features(pixels[rows], PixelFeatures()))
