from __future__ import annotations

import torch
from torch import Tensor

from collafuse_flwr.evaluation import train_synthetic_test_real

Digits = tuple[Tensor, Tensor, Tensor, Tensor]


def test_real_images_in_the_place_of_synthetic_ones_reach_the_upper_reference(digits: Digits) -> None:
    assert train_synthetic_test_real(*digits, num_classes=10, seed=0, steps=200) >= 0.97


def test_shuffled_labels_teach_nothing(digits: Digits) -> None:
    images, labels, *test = digits
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    # Chance is 0.1 with a standard error of 0.016 on 360 images.
    assert train_synthetic_test_real(images, shuffled, *test, num_classes=10, seed=0, steps=60) < 0.2
