"""What generated images are worth: how well a classifier that saw nothing else does, and how sure one of real ones is.

Both as HuSCF-GAN (arXiv 2507.12979) is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Utility:
    """How a classifier does on real images: the share it gets right, and means over the classes that these have."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    fpr: float


def measure_utility(predicted: Tensor, labels: Tensor, num_classes: int) -> Utility:
    """Compare predictions with labels, both (N,) int64 in 0..num_classes - 1, N >= 1.

    Of class c, with tp_c images that are and are called so, fp_c that are only called so, fn_c that only are, and tn_c
    others:

        precision = tp / (tp + fp)    recall = tp / (tp + fn)    F1 = 2 tp / (2 tp + fp + fn)    FPR = fp / (fp + tn)

    of which the means over the classes among `labels` are given. A class that is never predicted has precision 0, and
    the only class of all images has FPR 0.

    Raises:
        ValueError: there are no labels, or not one prediction for each.
    """
    if not len(labels) or predicted.shape != labels.shape:
        raise ValueError(f"`predicted` has shape {tuple(predicted.shape)}, and `labels` {tuple(labels.shape)}")
    confusion = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2).double()
    confusion = confusion.view(num_classes, num_classes)
    right, real, called = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    present = real > 0

    def mean(part: Tensor, whole: Tensor) -> float:
        return float((part / whole.clamp(min=1))[present].mean())

    return Utility(
        accuracy=float(right.sum() / len(labels)),
        precision=mean(right, called),
        recall=mean(right, real),
        f1=mean(2 * right, real + called),
        fpr=mean(called - right, len(labels) - real),
    )


def dataset_score(logits: Tensor) -> float:
    """exp(E KL(p(y|x) || p(y))), 1 to K, of the logits (N, K) that a classifier of real images gives to generated ones.

    It is large if every image is clearly of one class, and all classes are there: the Inception score (Salimans et al.
    2016, arXiv 1606.03498, section 4) with a classifier of the data set, where MNIST's is the "MNIST score".
    """
    log_given = logits.double().log_softmax(dim=1)
    conditional = log_given.exp()
    divergence = (conditional * (log_given - conditional.mean(dim=0).log())).nan_to_num().sum(dim=1)
    return float(divergence.mean().exp())
