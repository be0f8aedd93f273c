from __future__ import annotations

import torch
from torch import Tensor

from collafuse_flwr.evaluation.tstr import train_synthetic_test_real

Digits = tuple[Tensor, Tensor, Tensor, Tensor]


def test_real_images_in_the_place_of_synthetic_ones_reach_the_upper_reference(digits: Digits) -> None:
    images, labels, *test = digits
    (utility,) = train_synthetic_test_real(images, labels, [(test[0], test[1])], num_classes=10, seed=0, steps=200)
    assert utility.accuracy >= 0.97
    assert utility.f1 >= 0.97
    assert utility.fpr <= 0.01


def test_shuffled_labels_teach_nothing(digits: Digits) -> None:
    images, labels, *test = digits
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    # Chance is 0.1 with a standard error of 0.016 on 360 images.
    tests = [(test[0], test[1]), (test[0][:20], test[1][:20])]
    every, few = train_synthetic_test_real(images, shuffled, tests, num_classes=10, seed=0, steps=60)
    assert every.accuracy < 0.2
    assert few.accuracy < 0.5
