"""Train on synthetic, test on real: what generated images are worth to somebody who has nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from collafuse_flwr.evaluation.classifier import accuracy, train_classifier


def train_synthetic_test_real(
    synthetic_images: Tensor,
    synthetic_labels: Tensor,
    real_images: Tensor,
    real_labels: Tensor,
    *,
    num_classes: int,
    seed: int,
    device: torch.device | str = "cpu",
    steps: int | None = None,
    batch_size: int = 128,
) -> float:
    """Accuracy in [0,1] on real images of a classifier that saw synthetic ones only.

    Source: Esteban et al. 2017 (arXiv 1706.02633, section 4, TSTR); with real images in the place of the synthetic
    ones it is the upper reference.

    Args:
        synthetic_images: (M,C,H,W) in [-1,1], or uint8, M >= 1.
        synthetic_labels: (M,) int64 in [0, num_classes), the class each image was asked for.
        real_images: (N,C,H,W) in [-1,1], or uint8, held out from the generator's training.
        real_labels: (N,) int64.
        num_classes: classes of the classifier.
        seed: of the classifier's training.
        device: where to train and test.
        steps: optimiser steps, as in `train_classifier`.
        batch_size: images per step, as in `train_classifier`.

    Raises:
        ValueError: the synthetic images or labels do not have the form above.

    """
    classifier = train_classifier(
        synthetic_images, synthetic_labels, num_classes, seed, steps=steps, batch_size=batch_size, device=device
    )
    return accuracy(classifier, real_images, real_labels)
