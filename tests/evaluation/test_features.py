from __future__ import annotations

import torch
from torch import Tensor, nn

from collafuse_flwr.evaluation import PixelFeatures, extract_features


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
