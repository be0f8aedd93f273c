"""Files of the form that torch-fidelity reads, with random weights: the published ones are not downloaded."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_clip import CLIPVisual, convert_weights
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class Unread(FeatureExtractorInceptionV3):  # type: ignore[misc]
    """The network as it is built, before it reads any weights."""

    def load_state_dict(self, *_: object) -> None:
        pass


def write_inception(folder: Path) -> str:
    """A state dict of all of Inception, 96 MB; its weights keep the signal's scale, or all features would be 0."""
    path = folder / "inception.pth"
    torch.save({}, path)
    network = Unread("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    generator = torch.Generator().manual_seed(0)
    for weights in network.parameters():
        if weights.ndim > 1:
            nn.init.kaiming_normal_(weights, nonlinearity="relu", generator=generator)
    torch.save(network.state_dict(), path)
    return str(path)


class _Holder(nn.Module):
    """Weights under the names that they have in a network, without what the network does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, weights in network.named_parameters(recurse=False):
            self.register_parameter(name, weights)
        for name, child in network.named_children():
            self.add_module(name, _Holder(child))

    def forward(self, x: Tensor) -> Tensor:
        return x


def write_clip(folder: Path, patch: int = 32) -> str:
    """A TorchScript archive of 22 MB: CLIP's ViT-B/32 with one of its twelve layers, whose number the reader counts."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = CLIPVisual(512, 224, 1, 768, patch)
    convert_weights(network)
    network.register_parameter("text_projection", nn.Parameter(torch.zeros(512, 512)))
    path = folder / f"clip-{patch}.pt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        torch.jit.script(_Holder(network)).save(str(path))
    return str(path)
