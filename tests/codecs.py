"""Codecs for tests: a small AutoencoderKL on disk, and linear ones whose latents are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from collafuse_flwr.data import codec as codecs
from collafuse_flwr.data.codec import RANGE, Codec
from collafuse_flwr.diffusion.codec_training import CodecConfig, build_autoencoder, note_moments

#: The rows of an orthonormal transform of the four pixels of a patch: their mean, and three differences.
HADAMARD = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=torch.float64) / 2


def write_codec(
    folder: Path, *, channels: int = 1, latent_channels: int = 4, downsample: int = 2, seed: int = 0
) -> Path:
    """An untrained codec of random weights, with the moments of its latents of random images."""
    config = CodecConfig(latent_channels=latent_channels, downsample=downsample, width=8)
    autoencoder = build_autoencoder(config, channels, 8, seed)
    images = torch.randint(0, 256, (32, channels, 8, 8), generator=torch.Generator().manual_seed(1))
    note_moments(autoencoder, images.to(torch.uint8))
    autoencoder.save_pretrained(folder)
    return folder


class Patches:
    """Latents are an orthonormal transform of each patch of `factor` x `factor` pixels; the inverse decodes."""

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.rows = HADAMARD if factor == 2 else torch.eye(1, dtype=torch.float64)
        channels = factor**2
        # A value of 1 in networks is as much of the image.
        std = [factor / RANGE] * channels
        self.config = SimpleNamespace(latent_channels=channels, latents_mean=[0.0] * channels, latents_std=std)

    def encode(self, x: Tensor) -> SimpleNamespace:
        mean = torch.einsum("ij,njhw->nihw", self.rows, pixel_unshuffle(x, self.factor))
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean))

    def decode(self, z: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=pixel_shuffle(torch.einsum("ij,nihw->njhw", self.rows, z), self.factor))


def linear(factor: int, folder: Path = Path("linear")) -> Codec:
    """The codec of `Patches`; that of one pixel is the identity."""
    autoencoder = Patches(factor)
    mean, std = codecs.latent_moments(autoencoder.config)
    return Codec(folder, f"linear-{factor}", autoencoder, mean, std, 1, factor)


def use(monkeypatch: pytest.MonkeyPatch, codec: Codec) -> str:
    """Have every folder hold this codec; the value of `codec` that names it."""
    monkeypatch.setattr(codecs, "codec_digest", lambda _: codec.digest)
    monkeypatch.setattr(codecs, "_load", lambda *_: codec)
    return str(codec.folder)
