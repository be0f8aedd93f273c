"""Inference of a class, or of an attribute, from releases."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

#: Weight of the data against the squared weights of the probe: releases are few, and mostly noise.
DATA_WEIGHT = 0.1
#: Images of a class that either half needs.
MIN_IMAGES = 2


@dataclass(frozen=True)
class AttributeInference:
    """Area under the ROC curve, mean over classes one against the rest (no information: `CHANCE`), and accuracy.

    `majority` is the accuracy of always naming the class that is most frequent in the half that was learnt from.
    """

    auc: float
    accuracy: float
    majority: float


#: The area under the ROC curve of a probe that learnt nothing.
CHANCE = 0.5


def probe(received: Tensor, labels: Tensor, generator: torch.Generator) -> AttributeInference | None:
    """Logistic regression from half of the releases to their labels, tested on the other half.

    Args:
        received: (n, ...) releases.
        labels: (n,) whole numbers; images of classes of which a half has fewer than 2 are left out.
        generator: draws the halves.

    Returns:
        None if fewer than two classes are left.
    """
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - slow, and clients import this package
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415

    order = torch.randperm(len(labels), generator=generator)
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    counts = [torch.bincount(labels[half].long(), minlength=int(labels.max()) + 1) for half in halves]
    kept = (torch.minimum(*counts) >= MIN_IMAGES).nonzero().flatten()
    if len(kept) < 2:
        return None
    learnt, tested = (half[torch.isin(labels[half].long(), kept)] for half in halves)
    flat, classes = received.flatten(1).double().numpy(), labels.long().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe that is not quite there is still a probe
        fitted = LogisticRegression(C=DATA_WEIGHT, max_iter=300).fit(flat[learnt], classes[learnt])
    scores, true = fitted.predict_proba(flat[tested]), classes[tested]
    one_against_rest = [roc_auc_score(true == name, scores[:, i]) for i, name in enumerate(fitted.classes_)]
    return AttributeInference(
        auc=sum(one_against_rest) / len(one_against_rest),
        accuracy=float((fitted.predict(flat[tested]) == true).mean()),
        majority=float((true == kept[counts[0][kept].argmax()].item()).mean()),
    )
