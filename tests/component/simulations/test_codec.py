"""`python -m simulations.codec`: a codec of public images, and what it says of itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from collafuse_flwr.data.codec import open_codec
from simulations import codec as command
from tests.commands import refused

QUICK = ("dataset=digits", "downsample=2", "width=8", "batch_size=32", "threads=1", "max_images=400")


def call(*arguments: str) -> int:
    """The command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["codec", *arguments])
        return command.main()


def test_a_codec_learns_and_is_measured_on_images_that_it_has_not_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = {}
    for steps in (1, 80):
        output = tmp_path / str(steps)
        assert call(*QUICK, f"num_steps={steps}", f"output={output}") == 0
        described[steps] = json.loads((output / "codec.json").read_text())
        opened = open_codec(str(output))
        assert opened is not None
        assert described[steps]["sha256"] == opened.digest
        assert f"sha256:{opened.digest}" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"1", "80"}
    assert {path.name for path in output.iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "codec.json",
        "reconstructions.png",
    }
    assert (described[80]["num_images"], described[80]["num_held_out"]) == (360, 40)
    assert described[80]["latent_shape"] == [4, 4, 4]
    # The mean image is 11 dB.
    assert described[80]["psnr"] > described[80]["psnr_mean_image"] + 2 > described[1]["psnr"]


def test_the_same_seed_gives_the_same_codec(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        assert call(*QUICK, "num_steps=2", f"output={tmp_path / name}") == 0
        digests.add(json.loads((tmp_path / name / "codec.json").read_text())["sha256"])
    assert len(digests) == 1
    assert call(*QUICK, "num_steps=2", "seed=1", f"output={tmp_path / 'three'}") == 0
    assert json.loads((tmp_path / "three" / "codec.json").read_text())["sha256"] not in digests


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("dataset=", "`dataset` = '' is not allowed: the public images"),
        ("dataset=digit", "`dataset` = 'digit' is not allowed"),
        ("downsample=3", "`downsample` = 3 is not allowed: 1, 2, 4, 8 or 16"),
        ("downsample=16", "`image_size` = 0 is not allowed: a multiple of `downsample` = 16 (the images have 8"),
        ("width=12", "`width` = 12 is not allowed: a multiple of 8"),
        ("latent_channels=0", "`latent_channels` = 0 is not allowed: a whole number >= 1 and <= 64"),
        ("batch_size=1000", "`batch_size` = 1000 is not allowed: at most the 360 images that are not held out"),
        ("output=", "`output` = '' is not allowed: a new folder"),
        ("kl=1", "`kl` = 1 is not allowed: no such setting"),
        ("seed=-1", "`seed` = -1 is not allowed: a whole number >= 0"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, said: str
) -> None:
    assert call(*QUICK, f"output={tmp_path / 'codec'}", given) == 2
    assert refused(capsys).startswith(f"error: {said}")
    assert list(tmp_path.iterdir()) == []


def test_what_lies_in_its_place_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "codec").mkdir()
    (tmp_path / "codec" / "mine").touch()
    assert call(*QUICK, f"output={tmp_path / 'codec'}") == 2
    assert "a new or empty folder" in refused(capsys)


def test_training_that_is_stopped_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "draw_overview", stop)
    assert call(*QUICK, "num_steps=1", f"output={tmp_path / 'codec'}") == 130
    assert list(tmp_path.iterdir()) == []
