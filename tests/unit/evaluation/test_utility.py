from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from collafuse_flwr.evaluation.utility import Utility, dataset_score, measure_utility

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@settings(max_examples=60)
@given(PAIRS)
def test_utility_is_scikit_learns_over_the_classes_of_the_real_images(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    utility = measure_utility(torch.tensor(predicted), torch.tensor(labels), 6)
    present = np.unique(labels)
    means = precision_recall_fscore_support(labels, predicted, labels=present, average="macro", zero_division=0)
    assert [utility.precision, utility.recall, utility.f1] == pytest.approx(list(means[:3]))
    assert utility.accuracy == pytest.approx(accuracy_score(labels, predicted))
    table = confusion_matrix(labels, predicted, labels=range(6))
    wrongly = table.sum(0) - table.diagonal()
    others = np.maximum(len(labels) - table.sum(1), 1)
    assert utility.fpr == pytest.approx((wrongly / others)[present].mean())


def test_utility_in_closed_form() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    assert measure_utility(labels, labels, 3) == Utility(1, 1, 1, 1, 0)
    guessed = measure_utility(torch.zeros_like(labels), labels, 3)
    assert astuple(guessed) == pytest.approx((3 / 4, 3 / 8, 1 / 2, 3 / 7, 1 / 2))
    assert measure_utility(torch.tensor([2]), torch.tensor([2]), 3).fpr == 0


@pytest.mark.parametrize("labels", [torch.empty(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)])
def test_labels_that_are_not_those_of_the_predictions_are_refused(labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"^`predicted` has shape"):
        measure_utility(torch.zeros(len(labels) and 2, dtype=torch.int64), labels, 3)


@pytest.mark.parametrize("kinds", [1, 3, 10])
def test_a_score_counts_the_classes_that_are_predicted_surely_and_alike(kinds: int) -> None:
    logits = 1e4 * torch.eye(10)[torch.arange(60) % kinds]
    assert dataset_score(logits) == pytest.approx(kinds)


def test_who_cannot_tell_any_image_scores_one() -> None:
    assert dataset_score(torch.zeros(7, 10)) == pytest.approx(1)
    assert dataset_score(torch.tensor([[0.0, 1.0]]).expand(5, 2)) == pytest.approx(1)


def test_a_score_is_the_exponential_of_the_mutual_information() -> None:
    p, q = 0.9, 0.1
    logits = torch.tensor([[p, q], [q, p]], dtype=torch.float64).log() + 3
    assert dataset_score(logits) == pytest.approx(math.exp(p * math.log(p / 0.5) + q * math.log(q / 0.5)))
