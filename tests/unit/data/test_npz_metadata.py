from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.settings import DataConfig
from tests.unit.data.sets import at, pixels, refused

GOOD: dict[str, Any] = {
    "images": pixels(12, 8, 8),
    "patient": np.array(list("aabbccddeeff")),
    "identity": np.arange(12) // 3 * 10,
    "attributes": np.eye(12, 2, dtype=np.int64),
    "attribute_names": ["old", "smoker"],
}


def test_patients_persons_and_attributes_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **GOOD)
    metadata = load_images(at("npz", tmp_path / "set.npz"), seed=0).metadata
    assert metadata.groups["patient"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert metadata.groups["identity"].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert metadata.group_key == "patient"
    assert metadata.attribute_names == ("old", "smoker")
    assert metadata.attributes is not None
    assert torch.equal(metadata.attributes, torch.eye(12, 2, dtype=torch.uint8))


def test_patients_of_ones_own_file_are_not_separated(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **GOOD)
    config = DataConfig(("npz",), (str(tmp_path / "set.npz"),), partition="by_patient", holdout_fraction=0.34)
    data = federation_data(config, 2, 0)
    patient = data.images.metadata.groups["patient"]
    sides = [set(patient[side].tolist()) for part in data.partitions for side in (part.train, part.held_out)]
    assert sum(map(len, sides)) == 6
    assert set.union(*sides) == set(range(6))


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"patient": np.zeros(11, np.int64)}, "`patient` is int64 of shape (11,), not numbers or text of (12,)"),
        ({"identity": np.zeros(12)}, "`identity` is float64 of shape (12,)"),
        ({"attributes": np.full((12, 2), 2)}, "`attributes` has shape (12, 2) or values other than 0 and 1"),
        ({"attributes": np.zeros((11, 2))}, "`attributes` has shape (11, 2)"),
        ({"attribute_names": ["old"]}, "`attribute_names` are not 2 different names"),
        ({"attribute_names": ["old", "old"]}, "`attribute_names` are not 2 different names"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], part: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **GOOD | changed)
    refused(at("npz", tmp_path / "set.npz"), part, "expected")
