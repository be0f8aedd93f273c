from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's digits in [-1,1]: images and labels to train on, then those of the 20 % held out."""
    data = load_digits()
    train, test = train_test_split(range(len(data.target)), test_size=0.2, random_state=0, stratify=data.target)
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(data.target)
    return images[train], labels[train], images[test], labels[test]
