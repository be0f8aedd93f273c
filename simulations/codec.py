"""Train a public codec: `python -m simulations.codec dataset=kmnist dataset_path=FOLDER image_size=16 output=FOLDER`.

A small autoencoder of public images (diffusers' AutoencoderKL), in whose latents runs with `codec=FOLDER` diffuse. A
tenth of the images is held out, to measure what a round trip costs. `output` is a folder that diffusers reads, with
codec.json (what it was trained on, and its SHA-256, which an owner's policy can pin) and reconstructions.png.
"""

from __future__ import annotations

import math
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.fields import allowed, coerce
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import available_cores, threads
from collafuse_flwr.data.codec import Codec, open_codec
from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.images import ImageSet, normalize
from collafuse_flwr.data.settings import DataConfig
from collafuse_flwr.diffusion.codec_training import (
    GROUPS,
    CodecConfig,
    build_autoencoder,
    round_trip,
    train_autoencoder,
)
from collafuse_flwr.evaluation.image_similarity import image_similarity
from collafuse_flwr.runs.figures import draw_overview
from simulations.cli import command
from simulations.cli_args import check_whole_numbers, named_settings

#: The settings of images, those of `collafuse_flwr.data.settings`.
OF_IMAGES = ("dataset", "dataset_path", "image_size")
OWN: dict[str, Any] = {"max_images": 0, "seed": 0, "threads": 0, "output": ""}
DEFAULTS = (
    {"dataset": "", "dataset_path": "", "image_size": 0} | {own.name: own.default for own in fields(CodecConfig)} | OWN
)
#: The share of the images that is held out, and how many of these the picture shows.
HELD_OUT, SHOWN = 0.1, 12


@dataclass(frozen=True)
class CodecRequest:
    """What to train on, the autoencoder, and where it goes."""

    data: DataConfig
    codec: CodecConfig
    seed: int
    threads: int
    output: Path

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> CodecRequest:
        """Check the settings.

        Raises:
            SettingError: one is missing or not allowed.
        """
        check_whole_numbers(settings, {"seed": 0, "max_images": 0, "threads": 0})
        codec = CodecConfig(**{own.name: coerce(own, own.name, settings[own.name]) for own in fields(CodecConfig)})
        if codec.downsample & (codec.downsample - 1):
            raise SettingError("downsample", codec.downsample, "1, 2, 4, 8 or 16")
        if codec.width % GROUPS:
            raise SettingError("width", codec.width, f"a multiple of {GROUPS}")
        if not settings["dataset"]:
            raise SettingError("dataset", "", "the public images, as in `simulations.run`")
        if not settings["output"]:
            raise SettingError("output", "", "a new folder for the codec")
        output = Path(str(settings["output"])).expanduser().absolute()
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            raise SettingError("output", str(output), "a new or empty folder")
        declared = {own.name: own for own in fields(DataConfig)}
        of_images = {name: coerce(declared[name], name, settings[name]) for name in OF_IMAGES}
        data = DataConfig(**of_images, max_images=settings["max_images"])
        return cls(data, codec, settings["seed"], settings["threads"], output)


def train_codec(request: CodecRequest) -> Codec:
    """Train a codec and write its folder, whole or not at all.

    Raises:
        DataError: the images cannot be read.
        SettingError: they do not fit.
    """
    images, config = load_images(request.data, request.seed), request.codec
    _, channels, size, _ = images.images.shape
    if size % config.downsample:
        allowed = f"a multiple of `downsample` = {config.downsample} (the images have {size} pixels a side)"
        raise SettingError("image_size", request.data.image_size, allowed)
    order = torch.randperm(len(images), generator=named_generator(request.seed, "codec", "held out"))
    held_out, rest = order.tensor_split([max(1, int(HELD_OUT * len(images)))])
    if len(rest) < config.batch_size:
        allowed = f"at most the {len(rest)} images that are not held out"
        raise SettingError("batch_size", config.batch_size, allowed)
    with threads(request.threads or available_cores()):
        autoencoder = build_autoencoder(config, channels, size, request.seed)
        train_autoencoder(autoencoder, images.images[rest], config, request.seed)
    return _write(request, autoencoder, images, held_out)


def _write(request: CodecRequest, autoencoder: Any, images: ImageSet, held_out: torch.Tensor) -> Codec:
    output, pixels = request.output, images.images[held_out]
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".unfinished-{secrets.token_hex(8)}")
    try:
        autoencoder.save_pretrained(temporary)
        codec = open_codec(str(temporary))
        assert codec is not None
        rebuilt, original = round_trip(codec, pixels), normalize(pixels)
        guess = image_similarity(original, normalize(images.images).mean(dim=0).expand_as(original))
        close = image_similarity(original, rebuilt)
        latents = codec.encode(pixels[:1]).shape[1:]
        described = {
            "sha256": codec.digest,
            "dataset": images.name,
            "num_images": len(images) - len(held_out),
            "image_shape": list(pixels.shape[1:]),
            "latent_shape": list(latents),
            "parameters": sum(p.numel() for p in autoencoder.parameters()),
            "psnr": close.psnr,
            "ssim": close.ssim,
            "psnr_mean_image": guess.psnr,
            "num_held_out": len(held_out),
            "seed": request.seed,
            **asdict(request.codec),
        }
        write_json(temporary / "codec.json", described)
        rows = [("held-out images", original[:SHOWN]), ("decoded latents", rebuilt[:SHOWN])]
        title = f"{images.name}: {math.prod(latents)} latents for {pixels[0].numel()} values, PSNR {close.psnr:.1f} dB"
        draw_overview(rows, temporary / "reconstructions.png", title)
        # A folder takes the place of an empty one.
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shapes = [" x ".join(map(str, described[name])) for name in ("latent_shape", "image_shape")]
    print(
        f"{described['parameters']} parameters, {shapes[0]} latents for {shapes[1]} values; of {len(held_out)} "
        f"held-out images PSNR {close.psnr:.1f} dB, SSIM {close.ssim:.3f} (the mean image: {guess.psnr:.1f} dB)"
    )
    return codec


def _act(arguments: list[str]) -> int:
    request = CodecRequest.of(named_settings(arguments, DEFAULTS))
    codec = train_codec(request)
    print(f"The codec is in {request.output}; sha256:{codec.digest}")
    return 0


def _usage(_: list[str]) -> str:
    own = [f"{own.name}={own.default}: {own.metadata['about']} ({allowed(own)})" for own in fields(CodecConfig)]
    of_images = [
        f"{own.name}=: {own.metadata['about']} ({allowed(own)})" for own in fields(DataConfig) if own.name in OF_IMAGES
    ]
    others = [
        "max_images=0: use only this many images, drawn by seed; 0: all",
        "seed=0: of everything that is drawn",
        "threads=0: torch threads; 0: all cores",
        "output=: a new folder",
    ]
    return "\n".join([f"{__doc__}", *(f"  {line}" for line in [*of_images, *own, *others])])


main = command(_act, usage=_usage, going_on="nothing was written")

if __name__ == "__main__":
    sys.exit(main())
