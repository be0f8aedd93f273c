"""`python -m simulations.run`: what a run leaves, how mistakes are reported, and how a run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simulations.runners.flwr import REPOSITORY
from strategies.collafuse import CollaFuse
from tests.commands import refused, run_here
from tests.small_runs import SMALL, bytes_of, metrics

ARGUMENTS = [f"{name}={str(value).lower()}" for name, value in SMALL.items()] + ["runner=local"]

#: A denoiser of two layers, as a user may bring one.
NETWORK = """
from torch import nn

class Plain(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.classes = nn.Embedding(max(1, shape.num_classes), shape.channels)
        self.layers = nn.Sequential(
            nn.Conv2d(shape.channels, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, shape.channels, 3, padding=1)
        )

    def forward(self, x, t, class_labels=None):
        if class_labels is not None:
            x = x + self.classes(class_labels)[:, :, None, None]
        return self.layers(x)

def build(shape):
    return Plain(shape)

number = 3
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a whole run, and what it printed."""
    folder, printed = tmp_path_factory.mktemp("whole"), StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    with redirect_stdout(printed):
        assert run_here(folder, *ARGUMENTS, "output=out") == 0
    signal.signal(signal.SIGTERM, handler)
    return folder / "out", printed.getvalue()


def test_a_run_leaves_everything_in_its_folder(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    assert json.loads((folder / "config.json").read_text()).items() >= SMALL.items()
    assert [row["round"] for row in metrics(folder)] == [1, 2]
    assert len(json.loads((folder / "summary.json").read_text())["clients"]) == 3
    networks = [folder / "server" / "backbone", *(folder / "clients" / str(c) / "denoiser" for c in range(3))]
    for network in networks:
        assert (network / "unet" / "config.json").is_file()
        assert (network / "unet" / "diffusion_pytorch_model.safetensors").is_file()
        assert (network / "scheduler" / "scheduler_config.json").is_file()
    pictures = {path.stem: path for path in (folder / "pictures").glob("*.png")}
    assert pictures.keys() == {"overview", "samples", "hand-over", "curves", "client-0", "client-1", "client-2"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures.values())


def test_the_table_is_printed(whole: tuple[Path, str]) -> None:
    folder, printed = whole
    assert "Quality, disclosure and cost" in printed
    rows = [line.split()[0] for line in printed.splitlines() if line.split()]
    assert {"client", "0", "1", "2", "pooled"} <= set(rows)
    assert printed.endswith(f"Everything is in {folder}\n")


def test_without_output_a_new_folder_below_runs_is_made(tmp_path: Path) -> None:
    arguments = [*ARGUMENTS, "num_rounds=1", "evaluation.num_samples=2", "data.max_images=60"]
    assert run_here(tmp_path, *arguments) == 0
    (made,) = (tmp_path / "runs").iterdir()
    assert made.name.endswith("-collafuse-digits-c0.3")
    assert (made / "summary.json").is_file()


WRONG = {
    "cut_ratio=1.2": "`cut_ratio` = 1.2 is not allowed: a number >= 0 and <= 1",
    "cut_ratio=nan": "`cut_ratio` = nan is not allowed",
    "cut_ratio=much": "`cut_ratio` = 'much' is not allowed",
    "cut_ratio=": "`cut_ratio` = ",
    "cut.client_ratios=[0.1,0.2]": "`cut.client_ratios` = [0.1, 0.2] is not allowed: 3 numbers in [0, 1]",
    "cut.client_ratios='0.1,0.2,0.3'": "`cut.client_ratios` = '0.1,0.2,0.3' is not allowed: a list of numbers",
    "strategy=fedavg cut_ratio=0.4": "`cut_ratio` = 0.4 is not allowed: 0.2, its default, as `strategy` = fedavg does",
    "gan.width=8": "`gan.width` = 8 is not allowed: 64, its default, as `strategy` = collafuse does not read it",
    "partition=iid data.dirichlet_alpha=1": "its default, unless `partition` is dirichlet or `partition` is by_domain",
    "data.conditioning=attributes": (
        "`data.conditioning` = 'attributes' is not allowed: classes or none: the images of `dataset` = digits have no "
    ),
    "conditioning=none": (
        "`conditioning`: no such setting; did you mean `data.conditioning` or `split_gan.condition_at`?"
    ),
    "sampling.guidance_scale=2": "`sampling.guidance_scale` = 2.0 is not allowed: 1 when `train.cfg_dropout` is 0",
    "num_rounds=1.5": "`num_rounds` = 1.5 is not allowed: a whole number >= 1",
    "dataset=foo": "`dataset` = 'foo' is not allowed: one or a list of digits, imagefolder, npz, hf, mnist",
    "strategy=bar": "`strategy` = 'bar' is not allowed: one of collafuse, pfdm",
    "model=huge": "`model` = 'huge' is not allowed",
    "model=absent.module:build": "`model` = 'absent.module:build' is not allowed",
    "cut_rato=0.2": "`cut_rato`: no such setting; did you mean `cut_ratio`",
    "num_supernodes=5000": "num_supernodes",
    "dataset=npz": "dataset_path",
    "dataset=npz dataset_path=missing.npz": "dataset_path",
    "dataset=imagefolder dataset_path=missing": "dataset_path",
    "image_size=7": "`image_size` = 7 is not allowed: a multiple of 2 for `model` = nano",
    "evaluation.inception_weights=missing.pth": "weights` = 'missing.pth' is not allowed: there is no file /",
    "evaluation.clip_weights=missing.pt": "`evaluation.clip_weights` = 'missing.pt' is not allowed: there is no file /",
    "attack=true num_supernodes=1 data.max_images=4": "`attack` = True is not allowed: false where 1 image is held out",
    "resume=true output=absent": "`output`",
}


@pytest.mark.parametrize(("wrong", "message"), WRONG.items(), ids=WRONG)
def test_a_mistake_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str, message: str
) -> None:
    assert run_here(tmp_path, *ARGUMENTS, "output=out", *wrong.split(" ")) == 2
    assert message in refused(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "`output` = "),
        (["resume=true", "cut_ratio=0.4"], "`cut_ratio` = 0.4 is not allowed: 0.3, as in the run to resume"),
        (["resume=true", "seed=3"], "`seed` = 3 is not allowed: 0, as in the run to resume"),
        (["resume=true", "model=nets.plain:build"], "`model` = 'nets.plain:build' is not allowed"),
    ],
    ids=["a run is there", "another cut", "another seed", "another model"],
)
def test_a_run_is_never_mixed_with_another(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: tuple[Path, str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    bring_network(tmp_path, monkeypatch)
    folder, _ = whole
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    given = ["runner=local", "quiet=true", f"output={folder}", *arguments]
    assert run_here(tmp_path, *given) == 2
    assert message in refused(capsys)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "simulations.run", "cut_ratio=1.2"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: `cut_ratio` = 1.2 is not allowed: a number >= 0 and <= 1\n"
    assert list(tmp_path.iterdir()) == []


def interrupt(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let round two break."""
    original = CollaFuse.aggregate_train

    def breaks(self: CollaFuse, *arguments: Any) -> Any:
        if self.history.rounds[-1].round == 2:
            raise error
        return original(self, *arguments)

    monkeypatch.setattr(CollaFuse, "aggregate_train", breaks)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted; resume=true"),
        (RuntimeError("the disk is full"), 1, "error: the server stopped with RuntimeError: the disk is full"),
    ],
    ids=["interrupted", "failed"],
)
def test_an_interrupted_run_goes_on_to_the_same_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    whole: tuple[Path, str],
    error: BaseException,
    status: int,
    message: str,
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, error)
        assert run_here(tmp_path, *ARGUMENTS, "output=out") == status
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)
    assert len(metrics(tmp_path / "out")) == 1
    # The other settings are those of the run, not the defaults.
    assert run_here(tmp_path, "resume=true", "output=out") == 0
    assert metrics(tmp_path / "out") == metrics(whole[0])
    assert bytes_of(tmp_path / "out") == bytes_of(whole[0])


def bring_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of the user's, `nets.plain`."""
    (folder / "nets").mkdir()
    (folder / "nets" / "__init__.py").touch()
    (folder / "nets" / "plain.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(folder)
    for name in ("nets", "nets.plain"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_network_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bring_network(tmp_path, monkeypatch)
    arguments = [*ARGUMENTS, "output=out", "model=nets.plain:build", "client.model=nets.plain:build"]
    assert run_here(tmp_path, *arguments) == 0
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["model"] == settings["client.model"] == "nets.plain:build"
    assert (tmp_path / "out" / "server" / "backbone" / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert (tmp_path / "out" / "summary.json").is_file()


@pytest.mark.parametrize("path", ["nets.plain:absent", "nets.plain:number", "nets.absent:build"])
def test_a_network_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    bring_network(tmp_path, monkeypatch)
    assert run_here(tmp_path, *ARGUMENTS, "output=out", f"model={path}") == 2
    assert f"`model` = '{path}' is not allowed" in refused(capsys)
    assert not (tmp_path / "out").exists()


def test_what_was_done_about_images_is_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for i in range(60):
        folder = tmp_path / "images" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{i}.png")
    folder = tmp_path / "images" / "a"
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / "colour.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "notes.txt").write_text("of another day")
    arguments = [given for given in ARGUMENTS if not given.startswith(("data.max_images", "quiet"))]
    own = ("dataset=imagefolder", f"dataset_path={tmp_path / 'images'}", "image_size=8", "data.on_bad_file=skip")
    assert run_here(tmp_path, *arguments, *own, "output=out", "model=nano") == 0
    kept = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [Path(path).name for path in kept["skipped"]] == ["broken.png"]
    assert [Path(path).name for path in kept["converted"]] == ["colour.png"]
    assert [Path(path).name for path in kept["not_read"]] == ["notes.txt"]
    assert [{Path(path).name for path in group} for group in kept["equal"]] == [{"0.png", "copy.png"}]
    printed = capsys.readouterr().out
    assert len(kept["lines"]) == 4
    assert all(f"images: {line}" in printed for line in kept["lines"])
