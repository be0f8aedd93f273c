"""Published feature networks: Inception (FID, KID) and CLIP (CLIP-FID), with weights from disk and never a download."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.images import to_uint8
from collafuse_flwr.evaluation.settings import EvaluationConfig

#: Images of 299 x 299 pixels, which all become, take some 40 MB each on their way through Inception.
BATCH = 32
#: What each setting may name, and where it is officially found.
INCEPTION = (
    "empty, or the file weights-inception-2015-12-05-6726825d.pth (also named pt_inception-2015-12-05-6726825d.pth) "
    "from https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0"
)
CLIP = (
    "empty, or the file ViT-B-32.pt from https://openaipublic.azureedge.net/clip/models/"
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt"
)
#: Shapes that distinguish CLIP's ViT-B/32 from its other networks: 32 x 32 patches, and 512 features.
VIT_B_32 = ((768, 3, 32, 32), (768, 512))


class PretrainedFeatures(nn.Module):
    """Features (n, d) of images (n, C, H, W), C = 1 or 3, of any size: uint8, or floats in [-1, 1], which are rounded.

    A torch-fidelity extractor resizes and scales the pixels as its network wants them; grey becomes three channels.
    """

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> Tensor:
        """Extract the features, in float32."""
        pixels = images if images.dtype == torch.uint8 else to_uint8(images)
        features: Tensor = self.extractor(pixels.expand(-1, 3, -1, -1))[0]
        return features


def pretrained_networks(config: EvaluationConfig) -> dict[str, PretrainedFeatures]:
    """Load the networks whose weights the settings name: `inception`, d = 2048, and `clip`, d = 512; {} without any.

    Raises:
        SettingError: a file is not there, or does not hold the weights of its network.
    """
    return {
        name: _load(setting, path, read, expected)
        for name, setting, path, read, expected in (
            ("inception", "evaluation.inception_weights", config.inception_weights, _inception, INCEPTION),
            ("clip", "evaluation.clip_weights", config.clip_weights, _clip, CLIP),
        )
        if path
    }


def _load(setting: str, path: str, read: Callable[[str], nn.Module], expected: str) -> PretrainedFeatures:
    file = Path(os.path.expanduser(path))
    if not os.path.isfile(file):
        raise SettingError(setting, path, f"there is no file {file.absolute()}; it must be {expected}")
    try:
        # First weights are drawn only to be overwritten, and must not move the global state.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", FutureWarning)
            extractor = read(str(file))
    except Exception as error:  # whatever torch raises for other bytes
        raise SettingError(setting, path, f"it does not hold these weights; it must be {expected}") from error
    return PretrainedFeatures(extractor).requires_grad_(False).eval()


def _inception(path: str) -> nn.Module:
    """Build the network of the original FID (Heusel et al. 2017, arXiv 1706.08500), in its TensorFlow form."""
    from torch_fidelity.feature_extractor_inceptionv3 import (  # noqa: PLC0415 - slow, and few runs need it
        FeatureExtractorInceptionV3,
    )

    # torch-fidelity would run whatever code a pickle holds; this refuses all but tensors.
    torch.load(path, map_location="cpu", weights_only=True)
    extractor: nn.Module = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=path
    )
    return extractor


def _clip(path: str) -> nn.Module:
    """Build CLIP's image encoder, whose distances agree better with people's (Kynkaanniemi et al. 2023, 2203.06026)."""
    from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP  # noqa: PLC0415 - slow, as above

    extractor: nn.Module = FeatureExtractorCLIP("clip-vit-b-32", ["clip"], feature_extractor_weights_path=path)
    shapes = {name: tuple(weights.shape) for name, weights in extractor.named_parameters()}
    actual = (shapes["model.visual.conv1.weight"], shapes.get("model.visual.proj"))
    if actual != VIT_B_32:
        raise ValueError(f"another network of CLIP, with weights of shapes {actual}")
    return extractor
