"""Published networks as feature networks: torch-fidelity's own numbers, weights from disk or a refusal, no download."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import helmert, sqrtm
from torch import Tensor, nn
from torch_fidelity import feature_extractor_clip, feature_extractor_inceptionv3

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.images import normalize
from collafuse_flwr.evaluation.distances import frechet_distance
from collafuse_flwr.evaluation.features import extract_features
from collafuse_flwr.evaluation.pretrained import PretrainedFeatures, pretrained_networks
from collafuse_flwr.evaluation.settings import EvaluationConfig
from tests.weights import write_clip, write_inception

SETTINGS = {"inception": "evaluation.inception_weights", "clip": "evaluation.clip_weights"}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whoever opens a connection or asks for an address fails; the arguments of each."""
    connections: list[str] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        connections.append(str(arguments))
        raise OSError("there is no network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    for module in (feature_extractor_inceptionv3, feature_extractor_clip):
        monkeypatch.setattr(module, "load_state_dict_from_url", refuse)
    return connections


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    return {"inception": write_inception(folder), "clip": write_clip(folder)}


@pytest.fixture(scope="module")
def networks(files: dict[str, str]) -> dict[str, PretrainedFeatures]:
    return pretrained_networks(EvaluationConfig(inception_weights=files["inception"], clip_weights=files["clip"]))


def pixels(count: int, channels: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


def extractor(name: str, path: str) -> nn.Module:
    """torch-fidelity's own."""
    if name == "clip":
        network: nn.Module = feature_extractor_clip.FeatureExtractorCLIP("clip-vit-b-32", ["clip"], path)
    else:
        network = feature_extractor_inceptionv3.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], path)
    return network


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:FutureWarning")
@pytest.mark.parametrize(("name", "width"), [("inception", 2048), ("clip", 512)])
def test_features_are_those_of_torch_fidelity(
    name: str, width: int, files: dict[str, str], networks: dict[str, PretrainedFeatures]
) -> None:
    own, theirs = networks[name], extractor(name, files[name])
    colour, grey = pixels(2, 3, 40), pixels(2, 1, 8)
    (expected,) = theirs(colour)
    assert expected.shape == (2, width)
    assert (expected[0] - expected[1]).abs().max() > 1e-3, "images must differ"
    assert torch.equal(own(colour), expected)
    assert torch.equal(own(normalize(colour)), expected), "floats in [-1, 1] are the same pixels"
    assert torch.equal(own(grey), theirs(grey.repeat(1, 3, 1, 1))[0])
    assert torch.equal(extract_features(colour, own), expected.double())


@pytest.mark.parametrize("name", SETTINGS)
def test_the_frechet_distance_is_that_of_gaussians_fitted_to_the_features(
    name: str, networks: dict[str, PretrainedFeatures]
) -> None:
    """With H the n - 1 contrasts of n points, S = (HX)^T HX / (n - 1), and S_r S_g has the eigenvalues of 3 x 3."""
    a, b = pixels(4, 1, 8, seed=1), pixels(5, 1, 8, seed=2) // 2
    x, y = (extract_features(images, networks[name]).numpy() for images in (a, b))
    u, v = (helmert(len(points)) @ points / (len(points) - 1) ** 0.5 for points in (x, y))
    root = np.trace(np.real(sqrtm(u @ v.T @ v @ u.T)))
    expected = np.square(x.mean(axis=0) - y.mean(axis=0)).sum() + np.square(u).sum() + np.square(v).sum() - 2 * root
    features = torch.from_numpy(x), torch.from_numpy(y)
    assert frechet_distance(*features, nn.Identity()) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(features[0], features[0], nn.Identity()) == pytest.approx(0, abs=1e-6 * expected)


def test_networks_are_frozen_and_the_global_state_is_left_alone(files: dict[str, str]) -> None:
    before = torch.get_rng_state()
    networks = pretrained_networks(EvaluationConfig(clip_weights=files["clip"]))
    assert torch.equal(torch.get_rng_state(), before)
    assert networks.keys() == {"clip"}
    assert not networks["clip"].training
    assert not any(weights.requires_grad for weights in networks["clip"].parameters())


def test_without_weights_there_are_no_networks(offline: list[str]) -> None:
    assert pretrained_networks(EvaluationConfig()) == {}
    assert offline == []


class _Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def wrong_file(kind: str, folder: Path, files: dict[str, str], name: str) -> Path:
    path = folder / "weights"
    if kind == "of the other network":
        return Path(files["clip" if name == "inception" else "inception"])
    if kind == "of another CLIP":
        return Path(write_clip(folder, patch=16))
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("these are no weights")
    elif kind == "empty":
        path.touch()
    elif kind == "other tensors":
        torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    elif kind == "code":
        path.write_bytes(pickle.dumps({"fc.weight": _Code(folder / "made")}, protocol=2))
    return path


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "kind",
    ["absent", "folder", "text", "empty", "other tensors", "code", "of the other network", "of another CLIP"],
)
def test_a_file_that_is_something_else_is_refused_in_one_line(
    name: str, kind: str, tmp_path: Path, files: dict[str, str], offline: list[str]
) -> None:
    path = wrong_file(kind, tmp_path, files, name)
    config = Config.from_flat({SETTINGS[name]: str(path)})
    with pytest.raises(SettingError) as refused:
        pretrained_networks(config.evaluation)
    message = str(refused.value)
    assert message.startswith(f"`{SETTINGS[name]}` = '{path}' is not allowed: ")
    assert "must be empty, or the file " in message
    assert "https://" in message
    assert "\n" not in message
    assert ("there is no file" in message) == (kind in ("absent", "folder"))
    assert not (tmp_path / "made").exists(), "code in a file is not run"
    assert offline == []
