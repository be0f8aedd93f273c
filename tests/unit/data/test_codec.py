"""Public codecs: latents of images, and images of latents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.runtime import threads
from collafuse_flwr.data import latents
from collafuse_flwr.data.codec import CONFIG, RANGE, SHA256, WEIGHTS, Codec, codec_digest, open_codec, pinned
from collafuse_flwr.data.images import HALF, ImageSet, normalize, to_uint8
from collafuse_flwr.data.latents import as_latents
from collafuse_flwr.data.public import load_public_images
from collafuse_flwr.data.settings import DataConfig, PublicConfig
from tests.codecs import HADAMARD, linear, use, write_codec

#: Steps of uint8 in [-1, 1].
STEP = 1 / HALF


def images(count: int = 6, channels: int = 1, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, size, size), generator=generator).to(torch.uint8)


def opened(folder: Path) -> Codec:
    codec = open_codec(str(folder))
    assert codec is not None
    return codec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_codec(tmp_path / "codec")


def test_the_identity_leaves_every_byte() -> None:
    assert torch.equal(linear(1).encode(images()), images())
    assert torch.equal(to_uint8(linear(1).decode(normalize(images()))), images())


def test_latents_of_a_linear_codec_are_exact_and_invert() -> None:
    codec, pixels = linear(2), images()
    latents = codec.encode(pixels)
    patch = normalize(pixels[0, 0, :2, :2]).double().flatten()
    assert torch.equal(latents[0, :, 0, 0], to_uint8(HADAMARD @ patch / 2))
    # Rounded to steps of 2 / 255 of twice the scale, each of four latents counts a half for a pixel.
    assert (codec.decode(normalize(latents)) - normalize(pixels)).abs().max() <= 2 * STEP + 1e-6


def test_latents_are_standardised_and_the_same_in_any_company(folder: Path) -> None:
    codec, pixels = opened(folder), images(32)
    standard = codec.standardised(images(256))
    assert standard.mean(dim=(0, 2, 3)).abs().max() < 0.3
    assert standard.std(dim=(0, 2, 3)).sub(1).abs().max() < 0.3
    whole = codec.encode(pixels)
    assert torch.equal(whole, to_uint8(codec.standardised(pixels) / RANGE))
    with threads(2):
        assert torch.equal(torch.cat([codec.encode(one) for one in pixels.split(1)]), whole)
    decoded = codec.decode(normalize(whole))
    assert decoded.shape == (32, 1, 8, 8)
    assert -1 <= decoded.min() < decoded.max() <= 1


def test_a_digest_is_that_of_the_content(folder: Path, tmp_path: Path) -> None:
    before = codec_digest(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert codec_digest(tmp_path / "copy") == before
    assert pinned(str(folder)) == pinned(pinned(str(folder))) == f"{SHA256}{before}"
    assert pinned("") == ""
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {"encoder.conv_in.bias": weights["encoder.conv_in.bias"] + 1}, folder / WEIGHTS)
    assert codec_digest(folder) != before


def test_a_machine_with_a_codec_of_its_own_has_the_one_of_the_run(folder: Path, tmp_path: Path) -> None:
    named = pinned(str(folder))
    codec = open_codec(named, str(folder))
    assert codec is not None
    assert f"{SHA256}{codec.digest}" == named
    with pytest.raises(SettingError, match=r"^`codec` = 'sha256:.*the codec's folder where images are encoded"):
        open_codec(named)
    other = write_codec(tmp_path / "other", seed=1)
    with pytest.raises(SettingError, match=r"^`codec` = 'sha256:.*that of the codec in .*other, sha256:"):
        open_codec(named, str(other))


def change(**values: object) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | values))

    return changed


def weights(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], None]:
    return lambda folder: save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


NAN = weights(lambda held: held | {"encoder.conv_in.bias": held["encoder.conv_in.bias"] * torch.nan})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin"), "a folder on this machine"),
        (lambda folder: (folder / CONFIG).unlink(), "a folder on this machine with config.json and"),
        (lambda folder: (folder / CONFIG).write_text("{"), "can be read and fit"),
        (lambda folder: (folder / CONFIG).write_text("[]"), "can be read and fit"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"pickle"), "can be read and fit"),
        (change(_class_name="VQModel"), "is of an AutoencoderKL, not of VQModel"),
        (change(latent_channels=8), "can be read and fit"),
        (change(latents_std=[1, 1, 1, 0]), "4 finite numbers as latents_mean, and as many above 0 as latents_std"),
        (change(latents_mean=[0, 0]), "4 finite numbers as latents_mean"),
        (change(latents_mean=["x"] * 4), "4 finite numbers as latents_mean"),
        (weights(lambda held: dict(list(held.items())[1:])), "can be read and fit"),
        (NAN, "one whose weights are finite"),
    ],
)
def test_what_is_no_codec_is_refused_in_one_line(folder: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(folder)
    with pytest.raises(SettingError, match=rf"^`codec` = '{folder}' is not allowed: .*{said}") as caught:
        open_codec(str(folder))
    assert len(str(caught.value).splitlines()) == 1


def test_a_name_that_is_no_folder_is_looked_up_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_download", lambda *_, **__: pytest.fail("went online"))
    for name in ("stabilityai/sd-vae-ft-mse", "none", "~nobody/codec", "\0"):
        with pytest.raises(SettingError, match="a folder on this machine"):
            open_codec(name)


def test_a_codec_of_one_scale_is_taken_by_it(folder: Path) -> None:
    change(latents_mean=None, latents_std=None, scaling_factor=0.5, shift_factor=0.25)(folder)
    codec = opened(folder)
    assert codec.mean.flatten().tolist() == [0.25] * 4
    assert codec.std.flatten().tolist() == [2.0] * 4


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((3, 8), "^`codec` = .*one of images of 3 channels, not of 1"),
        ((1, 7), "^`image_size` = 7 .*a multiple of 2 for"),
    ],
)
def test_images_that_do_not_fit_are_refused(folder: Path, shape: tuple[int, int], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        opened(folder).encode(images(2, *shape))


def labelled(pixels: Tensor) -> ImageSet:
    return ImageSet(pixels, torch.zeros(len(pixels), dtype=torch.int64), ("one",), "images")


def test_latents_are_computed_once_for_images_and_codec(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, codec = DataConfig(cache_path=str(tmp_path / "cache")), opened(folder)
    first = as_latents(labelled(images()), codec, config)
    assert torch.equal(first.images, codec.encode(images()))
    assert torch.equal(first.pixels, images())
    monkeypatch.setattr(latents, "_encoded", lambda *_: pytest.fail("encoded again"))
    again = as_latents(labelled(images()), codec, config)
    assert torch.equal(again.images, first.images)
    for other in (labelled(images(5)), labelled(255 - images())):
        with pytest.raises(pytest.fail.Exception):
            as_latents(other, codec, config)
    with pytest.raises(pytest.fail.Exception):
        as_latents(labelled(images()), replace(codec, digest="another"), config)


def test_a_subset_keeps_the_pixels_and_the_codec(tmp_path: Path) -> None:
    whole = as_latents(labelled(images()), linear(2), DataConfig(cache_path=str(tmp_path)))
    part = whole.subset(torch.tensor([4, 1]))
    assert torch.equal(part.pixels, images()[[4, 1]])
    assert torch.equal(part.images, whole.images[[4, 1]])
    assert part.decode(normalize(part.images)).shape == (2, 1, 8, 8)


def test_latents_of_more_values_than_an_image_count_as_enlarged(tmp_path: Path) -> None:
    """Of a codec that spreads an image over twice as many values, half of the noise averages out."""
    config = DataConfig(cache_path=str(tmp_path))
    assert as_latents(labelled(images()), linear(2), config).enlargement() == 1
    wide = opened(write_codec(tmp_path / "wide", latent_channels=16))
    assert as_latents(labelled(images()), wide, config).enlargement() == 4
    # Of 4 x 4 own pixels, enlarged to 8 x 8.
    enlarged = replace(labelled(images()), native_sides=torch.full((6,), 4))
    assert as_latents(enlarged, linear(2), config).enlargement() == 4


def test_spread_clipping_and_rounding_are_said(tmp_path: Path) -> None:
    report = as_latents(labelled(images(200)), linear(1), DataConfig(cache_path=str(tmp_path))).report
    spread = float(normalize(images(200)).std()) * RANGE
    assert report.facts["codec"]["spread"] == pytest.approx(spread)
    assert f"{2 * RANGE / 255 / spread:.3f} of the spread" in report.lines[-1]


def test_public_images_are_latents_too_and_none_is_a_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataConfig(codec=use(monkeypatch, linear(2)), cache_path=str(tmp_path), max_images=1700)
    from collafuse_flwr.data.federated import federation_data  # noqa: PLC0415 - after the codec is in place

    private = federation_data(data, 2, 0).images
    public = load_public_images(PublicConfig(dataset="digits"), data, (4, 4, 10, 0), private, 0)
    assert public is not None
    assert public.images.shape[1:] == (4, 4, 4)
    held = {image.numpy().tobytes() for image in private.pixels}
    assert not any(image.numpy().tobytes() in held for image in public.pixels)
    assert len(public) == 97
