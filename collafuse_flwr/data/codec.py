"""A public autoencoder, frozen: images as latents, in which a run diffuses, and latents as images again.

    x = clip((E(image) - mean) / std, -3, 3) / 3        image = D(3 std x + mean)

E is the mean of the encoder's posterior, so nothing is drawn; mean and std are those of the public images that it was
trained on, channel by channel. It is computed in float64: rounded to uint8, an image has the same latents on every
machine and with any number of threads. Else it would have another name there, and noise of its own.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.images import normalize, to_uint8

#: Latents are clipped to so many standard deviations; the steps of uint8 are 2 / 255 of that.
RANGE = 3.0
#: The two files of a codec's folder, as diffusers calls them.
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
KIND = "AutoencoderKL"
#: How `codec` names one without its place: every machine has it in a folder of its own.
SHA256 = "sha256:"
#: Images that are encoded, or decoded, at a time.
BATCH = 64


@dataclass(frozen=True, eq=False)
class Codec:
    """An autoencoder with the moments of its latents, (1, c, 1, 1), float64; `digest` is the SHA-256 of both files.

    `channels` are those of images, `factor` is how many pixels a side become one latent.
    """

    folder: Path
    digest: str
    autoencoder: Any
    mean: Tensor
    std: Tensor
    channels: int
    factor: int

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents of images, uint8 (n, channels, S, S), as (n, c, S / factor, S / factor), uint8.

        Raises:
            SettingError: the images do not fit.
        """
        self.check(*images.shape[1:])
        parts = [self.standardised(own).div(RANGE) for own in images.split(BATCH)]
        return torch.cat([to_uint8(part) for part in parts])

    @torch.no_grad()
    def standardised(self, images: Tensor) -> Tensor:
        """Latents of images, uint8, before they are clipped: of mean 0 and variance 1 over the public images."""
        posterior = self.autoencoder.encode(normalize(images).double()).latent_dist
        result: Tensor = (posterior.mean - self.mean) / self.std
        return result

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Images in [-1, 1], float32 (n, channels, S, S), of latents as networks have them, (n, c, s, s)."""
        parts = x.detach().cpu().double().split(BATCH)
        return torch.cat([decode_latents(self.autoencoder, own).float() for own in parts])

    def check(self, channels: int, height: int, width: int) -> None:
        """Refuse images that it does not take.

        Raises:
            SettingError: they have other channels, or a side that is no multiple of its factor.
        """
        if channels != self.channels:
            raise refused(self.folder, f"one of images of {channels} channels, not of {self.channels}")
        if height != width or height % self.factor:
            allowed = (
                f"a multiple of {self.factor} for `codec` = {self.folder} (the images have {height} pixels a side)"
            )
            raise SettingError("image_size", height, allowed)


def decode_latents(autoencoder: Any, x: Tensor) -> Tensor:
    """Images in [-1, 1], (n, channels, S, S), of latents as networks have them, (n, c, s, s), by an AutoencoderKL."""
    mean, std = (own.to(x.device, x.dtype) for own in latent_moments(autoencoder.config))
    result: Tensor = autoencoder.decode(x * RANGE * std + mean).sample.clamp(-1, 1)
    return result


def open_codec(setting: str, own: str = "") -> Codec | None:
    """The codec that `codec` names; None where it names none.

    Args:
        setting: a folder, or the digest of the codec in the folder `own`.
        own: the folder of a machine that has one of its own, whoever chooses the settings.

    Raises:
        SettingError: there is none, it cannot be used, or it is another one.
    """
    if not setting:
        return None
    if not own and setting.startswith(SHA256):
        raise refused(setting, "the codec's folder where images are encoded or decoded")
    folder = codec_folder(own or setting)
    digest = codec_digest(folder)
    if own and f"{SHA256}{digest}" != setting:
        raise refused(setting, f"that of the codec in {folder}, {SHA256}{digest}")
    return _load(folder, digest)


def codec_digest(folder: Path) -> str:
    """The SHA-256 of a codec's two files, 64 hexadecimal digits.

    Raises:
        SettingError: they are not there.
    """
    try:
        stats = [(folder / name).stat() for name in (CONFIG, WEIGHTS)]
        return _digest(folder, *((own.st_mtime_ns, own.st_size) for own in stats))
    except (OSError, ValueError):
        raise refused(folder, f"a folder on this machine with {CONFIG} and {WEIGHTS}, of an {KIND}") from None


def pinned(setting: str) -> str:
    """A codec as `sha256:...`, whichever way `codec` names it; empty where it names none.

    Raises:
        SettingError: it is not there.
    """
    return setting if not setting or setting.startswith(SHA256) else f"{SHA256}{codec_digest(codec_folder(setting))}"


def codec_folder(name: str) -> Path:
    """The whole path of a folder; `~` is the user's own, where that is known."""
    return Path(os.path.expanduser(name)).absolute()


@functools.lru_cache(maxsize=8)
def _digest(folder: Path, *_: tuple[int, int]) -> str:
    """Of files of these times and sizes."""
    whole = hashlib.sha256(b"1")
    for name in (CONFIG, WEIGHTS):
        whole.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return whole.hexdigest()


@functools.lru_cache(maxsize=2)
def _load(folder: Path, digest: str) -> Codec:
    from diffusers import AutoencoderKL  # noqa: PLC0415 - slow to import

    try:
        described = json.loads((folder / CONFIG).read_text())
        if described.get("_class_name") != KIND:
            raise refused(folder, f"one whose {CONFIG} is of an {KIND}, not of {described.get('_class_name')}")
        autoencoder = AutoencoderKL.from_config(described)
        autoencoder.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise refused(folder, f"one whose {CONFIG} and {WEIGHTS} can be read and fit ({reason})") from error
    if not all(bool(value.isfinite().all()) for value in autoencoder.state_dict().values()):
        raise refused(folder, "one whose weights are finite")
    try:
        mean, std = latent_moments(autoencoder.config)
    except ValueError as error:
        raise refused(folder, f"one with {error}") from None
    factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)
    frozen = autoencoder.double().eval().requires_grad_(requires_grad=False)
    return Codec(folder, digest, frozen, mean, std, int(autoencoder.config.in_channels), factor)


def latent_moments(config: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of latents, (1, c, 1, 1), float64; where a codec has none, those of its one scale.

    Raises:
        ValueError: they are no such numbers.
    """
    channels = int(config.latent_channels)
    mean = config.latents_mean or [config.shift_factor or 0.0] * channels
    std = config.latents_std or [1 / (config.scaling_factor or 1.0)] * channels
    try:
        moments = torch.tensor([mean, std], dtype=torch.float64).view(2, 1, channels, 1, 1)
    except (TypeError, ValueError, RuntimeError):
        moments = torch.full((2, 1, 1, 1, 1), torch.nan)
    if not bool(moments.isfinite().all()) or not bool((moments[1] > 0).all()):
        raise ValueError(f"{channels} finite numbers as latents_mean, and as many above 0 as latents_std")
    return moments[0], moments[1]


def refused(folder: Path | str, allowed: str) -> SettingError:
    """The error of a codec that cannot be used."""
    return SettingError("codec", str(folder), allowed)
