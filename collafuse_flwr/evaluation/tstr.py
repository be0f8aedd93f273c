"""Train on synthetic, test on real: the utility of generated images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from collafuse_flwr.evaluation.classifier import train_classifier
from collafuse_flwr.evaluation.features import extract_features
from collafuse_flwr.evaluation.utility import Utility, measure_utility


def tstr_batch_size(count: int) -> int:
    """Images in a batch of a classifier of so many samples: an eighth of them, but at least 32 and at most 128."""
    return min(128, max(32, count // 8))


def train_synthetic_test_real(
    synthetic_images: Tensor,
    synthetic_labels: Tensor,
    tests: Sequence[tuple[Tensor, Tensor]],
    *,
    num_classes: int,
    seed: int,
    device: torch.device | str = "cpu",
    steps: int | None = None,
    batch_size: int = 128,
) -> list[Utility]:
    """How a classifier that saw synthetic images only does on sets of real ones.

    Source: Esteban et al. 2017 (arXiv 1706.02633, section 4, TSTR); with real images in the place of the synthetic
    ones it is the upper reference.

    Args:
        synthetic_images: (M,C,H,W) in [-1,1], or uint8, M >= 1.
        synthetic_labels: (M,) int64 in [0, num_classes), the class that each image was generated for.
        tests: images as above, held out from the generator's training, and their labels, (N,C,H,W) and (N,) each.
        num_classes: classes of the classifier.
        seed: of the classifier's training.
        device: where to train and test.
        steps: optimiser steps, as in `train_classifier`.
        batch_size: images per step, as in `train_classifier`.

    Raises:
        ValueError: the images or labels do not have the form above.

    """
    classifier = train_classifier(
        synthetic_images, synthetic_labels, num_classes, seed, steps=steps, batch_size=batch_size, device=device
    )
    measured = []
    for images, labels in tests:
        predicted = extract_features(images, classifier).argmax(dim=1).cpu()
        measured.append(measure_utility(predicted, labels.cpu(), num_classes))
    return measured
