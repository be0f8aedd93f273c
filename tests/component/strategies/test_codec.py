"""Runs in the latents of a codec: as those in pixels, but for what is looked at."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import collafuse_flwr as cf
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.rng import derive_seed
from collafuse_flwr.data.codec import codec_digest
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.images import normalize
from collafuse_flwr.evaluation.distances import kernel_distance
from collafuse_flwr.evaluation.features import PixelFeatures
from collafuse_flwr.runs.loaded_run import FinishedRun
from collafuse_flwr.runs.run_dir import CODEC, open_config
from simulations import runners
from simulations.preflight import preflight
from simulations.sweep.grid import fingerprint
from tests.codecs import linear, use, write_codec
from tests.small_runs import bytes_of, here_is, small

QUICK: dict[str, Any] = {"runner": "local", "model": "nano", "evaluation.tstr": "pooled", "num_rounds": 1}


def run(folder: Path, **settings: Any) -> Path:
    return runners.run(small(folder, **QUICK | settings)).folder


def numbers(folder: Path) -> dict[str, Any]:
    """What a run measured, without what a clock did."""
    pooled: dict[str, Any] = json.loads((folder / "summary.json").read_text())["pooled"]
    return {name: value for name, value in pooled.items() if "seconds" not in name}


def pixels_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.parametrize("strategy", ["collafuse", "fedavg"])
def test_in_latents_that_are_the_pixels_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """Not a bit of networks and uploads; measures of images hang on roundings of the decoder alone."""
    plain = run(tmp_path / "plain", strategy=strategy)
    coded = run(tmp_path / "coded", strategy=strategy, codec=use(monkeypatch, linear(1)))
    assert bytes_of(coded) == bytes_of(plain)
    expected, coded_numbers = numbers(plain), numbers(coded)
    assert coded_numbers.keys() == expected.keys()
    for name, value in expected.items():
        assert coded_numbers[name] == (pytest.approx(value, rel=1e-3) if isinstance(value, float) else value), name


def test_what_leaves_are_latents_and_what_is_looked_at_are_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At c = 0 latents are uploaded as they are: as many values as pixels, which their decoder gives back."""
    settings: dict[str, Any] = {"cut__client_ratios": [0, 0.3, 1], "upload__dtype": "float32"}
    folder = run(tmp_path / "run", codec=use(monkeypatch, linear(2)), **settings)
    config, pool = open_config(folder), FinishedRun.of(folder).pool
    images = federation_data(config.data, 3, config.run.seed)
    clean = normalize(images.client(0).train.images)
    assert pool is not None
    uploaded = pool.batch(torch.arange(pool.shares[0].begin, pool.shares[0].begin + len(clean)))[0]
    assert uploaded.shape[1:] == clean.shape[1:] == (4, 4, 4)
    # In an order of the client's own.
    assert torch.equal(uploaded.flatten(1).sort(dim=0).values, clean.flatten(1).sort(dim=0).values)
    assert images.images.pixels.shape[1:] == (1, 8, 8)
    samples = load_file(folder / "clients" / "1" / "samples.safetensors")["images"]
    assert samples.shape[1:] == (4, 4, 4)
    generated = cf.load(folder).generate(client=1, n=3)
    assert {pixels_of(path) for path in generated.glob("*-class-*.png")} == {(8, 8)}


def test_attacks_rebuild_images_and_are_judged_in_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what a client uploads clean, the decoder's own error is all that is missing."""
    folder = run(
        tmp_path / "run", codec=use(monkeypatch, linear(2)), cut__client_ratios=[0, 0.5, 0.5], upload__dtype="float32"
    )
    attacked = cf.load(folder).attack(shadow_steps=2)
    clean, noised, _ = json.loads((attacked / "attacks.json").read_text())["clients"]
    # An error of a uniform rounding to steps of 2 / 255 of twice the scale, of a span of 2.
    rounding = 10 * math.log10(4 / ((2 * 2 / 255) ** 2 / 12))
    assert clean["psnr_upload"] == pytest.approx(rounding, abs=3)
    assert noised["psnr_upload"] < 20
    assert "psnr_wiener_closed_form" not in clean
    assert pixels_of(attacked / "reconstructions.png")[0] > 100


def test_a_client_compares_images_with_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents of its held-out images are decoded to these: the distance is that of the images to themselves."""
    client = here_is(small(tmp_path, codec=use(monkeypatch, linear(2))), tmp_path, 0)
    held_out = client.data.held_out
    pixels = normalize(held_out.pixels)
    assert pixels.shape[1:] == (1, 8, 8)
    seed = derive_seed(client._root(), "kernel", 0)
    expected = kernel_distance(pixels, pixels, PixelFeatures(), seed=seed).mean
    assert client._distance(normalize(held_out.images)) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "hybrid"},
        {"strategy": "pfdm"},
        {"strategy": "local", "client.range": "all"},
        {"strategy": "centralized"},
        {"strategy": "collafuse", "public.dataset": "digits"},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_every_strategy_of_diffusion_runs_in_latents(tmp_path: Path, settings: dict[str, Any]) -> None:
    codec = write_codec(tmp_path / "codec")
    folder = run(tmp_path / "run", codec=str(codec), num_supernodes=2, **settings)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["pooled"]["fd"] > 0
    assert json.loads((folder / "config.json").read_text())[CODEC] == f"sha256:{codec_digest(codec)}"
    assert summary["codec"] == f"sha256:{codec_digest(codec)}"
    assert json.loads((folder / "images.json").read_text())["codec"]["sha256"] == codec_digest(codec)
    pipeline = cf.load(folder).pipeline(client=0)
    images = pipeline(2, class_labels=[0, 9], generator=torch.manual_seed(0), output_type="pt").images
    assert images.shape == (2, 1, 8, 8)


def test_a_run_goes_on_with_its_own_codec_alone(tmp_path: Path) -> None:
    """Another one in the same folder is another data set: another run in a sweep, and no continuation."""
    codec = write_codec(tmp_path / "codec")
    config = small(tmp_path / "run", **QUICK, codec=str(codec), num_supernodes=2)
    before, folder = fingerprint(config), runners.run(config).folder
    write_codec(tmp_path / "copy")
    assert fingerprint(small(tmp_path / "run", **QUICK, codec=str(tmp_path / "copy"), num_supernodes=2)) == before
    write_codec(codec, seed=1)
    assert fingerprint(config) != before
    again = small(tmp_path / "run", **QUICK | {"num_rounds": 1}, codec=str(codec), num_supernodes=2, resume=True)
    for open_again in (lambda: runners.run(again), lambda: cf.load(folder).generate(client=0, n=2)):
        with pytest.raises(SettingError, match=r"^`codec` = .*the folder of that of the run in "):
            open_again()


def test_a_run_starts_from_one_in_the_same_latents(tmp_path: Path) -> None:
    """Latents of another codec of the same shape mean something else."""
    codec, other = (str(write_codec(tmp_path / name, seed=seed)) for seed, name in enumerate(("codec", "other")))
    given = {"num_supernodes": 2, "strategy": "centralized"}
    before = run(tmp_path / "before", codec=codec, **given)
    assert (run(tmp_path / "after", codec=codec, start_from=str(before), **given) / "summary.json").is_file()
    with pytest.raises(Exception, match=r"`start_from` = .*of a run in the latents of the same `codec`"):
        run(tmp_path / "refused", codec=other, start_from=str(before), **given)


def refusal(**settings: Any) -> str:
    with pytest.raises(SettingError) as caught:
        Config.from_flat(settings)
    return str(caught.value)


def test_settings_that_do_not_go_with_latents_are_refused() -> None:
    assert "as `strategy` = fedgan does not read it" in refusal(codec="x", strategy="fedgan")
    assert refusal(codec="x", **{"train.random_hflip": True}).startswith(
        "`train.random_hflip` = True is not allowed: false"
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"codec": "nowhere"}, "^`codec` = .*nowhere' is not allowed: a folder on this machine with config.json"),
        ({"codec": "sha256:00"}, "^`codec` = 'sha256:00' is not allowed: the codec's folder where images are encoded"),
        ({"model": "small"}, "^`model` = 'small' is not allowed: .*latents of 2 x 2"),
    ],
    ids=["no folder", "a digest", "a network that is too deep"],
)
def test_mistakes_are_refused_before_anything_starts(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    codec = str(write_codec(tmp_path / "codec", downsample=4))
    with pytest.raises(SettingError, match=said):
        preflight(small(tmp_path / "run", **{"model": "nano", "codec": codec} | settings))
    assert not (tmp_path / "run").exists()


def test_an_owners_limits_hold_in_a_simulation(tmp_path: Path) -> None:
    codec, policy = write_codec(tmp_path / "codec"), tmp_path / "policy.toml"
    given = {"policy": str(policy), "codec": str(codec), "cut_ratio": 0.5, "upload.share_labels": False}
    policy.write_text("max_snr_db = 100\n")
    with pytest.raises(Exception, match=r"beyond the policy of this client's owner: `codec` ="):
        run(tmp_path / "refused", **given)
    policy.write_text(f'max_snr_db = 100\ncodec = "{codec_digest(codec)}"\n')
    assert (run(tmp_path / "allowed", **given) / "summary.json").is_file()
