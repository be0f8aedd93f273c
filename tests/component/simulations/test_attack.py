"""`python -m simulations.attack`: every attack on a finished run, and what does not apply left out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from collafuse_flwr.data.images import subsample_evenly
from collafuse_flwr.runs.loaded_run import FinishedRun
from collafuse_flwr.runs.run_dir import write_config
from simulations import runners
from simulations.attack import __main__ as attack
from simulations.attack.attacks import membership_inference
from simulations.attack.server_view import received
from simulations.attack.target import AttackedRun, ClientTarget
from tests.commands import refused
from tests.small_runs import connect, federate, small

#: Of a run of three clients whose cuts are at both ends and between them.
CUTS = {
    "cut.client_ratios": [0, 0.6, 1],
    "upload.noise": "resampled",
    "upload.draws_per_image": 2,
    "num_rounds": 3,
    "upload.max_releases": 4,
}
QUICK = {"runner": "local", "model": "nano", "evaluation.tstr": "none", "data.max_images": 120}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fresh")
    return runners.run(small(folder, **QUICK, **CUTS)).folder


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fedavg")
    return runners.run(small(folder, **QUICK, strategy="fedavg", num_rounds=1)).folder


def call(*arguments: str) -> int:
    """The command in this process, with little effort."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["attack", "shadow_steps=3", *arguments])
        return attack.main()


@pytest.fixture(scope="module")
def attacked(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the command on the finished run."""
    folder = tmp_path_factory.mktemp("attacked")
    assert call(f"run={finished}", f"output={folder}") == 0
    return folder


def clients(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "attacks.json").read_text())["clients"])


def test_every_client_has_what_applies_to_it(attacked: Path) -> None:
    clean, noised, alone = clients(attacked)
    # Clean images are named, whatever int8 leaves of them, and rebuilt as they are; there is nothing to denoise.
    assert (clean["reid"], clean["releases"], clean["cut_step"]) == (1, 4, 0)
    assert clean["psnr_upload"] > 40
    assert "psnr_shadow" not in clean
    assert noised["reid_chance"] == 1 / noised["reid_n"] < noised["reid_one"] < noised["reid"]
    assert {"psnr_wiener", "psnr_backbone", "psnr_one_step", "psnr_shadow", "psnr_wiener_closed_form"} <= noised.keys()
    assert noised["psnr_wiener"] > noised["psnr_chance"]
    # The bound by the backbone is of the same images as the Gaussian one.
    assert 0 == noised["bits_chance"] < noised["bits_denoised"] <= noised["bits"]
    assert "bits_denoised" not in clean
    assert noised["membership_backbone_loss_auc_chance"] == 0.5
    assert "membership_denoiser_sima_tpr" in noised
    # Nothing of a client that trains alone was received, but it has a network and samples.
    assert alone["releases"] == 0
    assert not {name for name in alone if name.startswith(("reid", "psnr", "ssim", "probe", "membership_backbone"))}
    assert {"membership_denoiser_loss_auc", "memorisation"} <= alone.keys()


def test_the_seed_decides_every_number(
    finished: Path, attacked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(f"run={finished}", f"output={tmp_path}") == 0
    assert (tmp_path / "attacks.json").read_bytes() == (attacked / "attacks.json").read_bytes()
    shown = capsys.readouterr().out
    assert "Attacks on what was received: collafuse on digits" in shown
    assert shown.splitlines()[-1] == f"Everything is in {tmp_path}"


@pytest.mark.parametrize("name", ["leakage.png", "reconstructions.png"])
def test_pictures_show_something(attacked: Path, name: str) -> None:
    with Image.open(attacked / name) as picture:
        assert min(picture.size) > 100
        assert np.asarray(picture.convert("L")).std() > 10


def test_of_averaged_weights_networks_gradients_and_samples_are_attacked(
    averaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.attack.attacks.gradient_inversion.STEPS", 20)
    assert call(f"run={averaged}", "inversions=1") == 0
    for row in clients(averaged / "attacks"):
        assert row["releases"] == 0
        assert {"membership_backbone_loss_auc", "membership_denoiser_loss_auc", "memorisation"} <= row.keys()
        assert not {name for name in row if name.startswith(("reid", "psnr_w", "probe"))}
        assert row["psnr_gradient"] > row["psnr_chance"]
    assert (averaged / "attacks" / "reconstructions.png").exists()


@pytest.mark.parametrize(("iterations", "first"), [(0, 7), (1, 1)])
def test_a_backbone_is_attacked_at_the_steps_that_it_has_learnt(tmp_path: Path, iterations: int, first: int) -> None:
    given: dict[str, Any] = QUICK | {"deconvolution.iterations": iterations, "evaluation.num_samples": 6}
    attacked = AttackedRun.of(runners.run(small(tmp_path, **given)).folder, 0)
    (name, _, steps), *_ = membership_inference._networks(ClientTarget(attacked, attacked.clients[0]))
    assert (name, steps) == ("backbone", range(first, 21))


def test_all_rounds_of_fresh_noise_are_averaged(finished: Path) -> None:
    run = FinishedRun.of(finished)
    rows = run.data.partitions[1].train
    seen = received(run, 1, rows)
    assert seen is not None
    assert run.pool is not None
    # Two copies in each of two rounds, of which the pool has the last.
    assert seen.releases == 4
    alpha_bar = run.setup.schedule.alpha_bar[12].item()
    noise = [x - alpha_bar**0.5 * seen.x_0 for x in (seen.last, seen.mean)]
    assert [n.var().item() / (1 - alpha_bar) for n in noise] == pytest.approx([1, 1 / 4], rel=0.1)
    some = received(run, 1, subsample_evenly(rows, 5))
    assert some is not None
    assert torch.equal(some.mean, seen.mean[subsample_evenly(torch.arange(len(rows)), 5)])


def without(whole: Path, run: Path, missing: str) -> Path:
    """A copy of a run that lacks some of its files."""
    for path in whole.rglob("*"):
        relative = path.relative_to(whole)
        if path.is_file() and not str(relative).startswith(missing):
            (run / relative).parent.mkdir(parents=True, exist_ok=True)
            (run / relative).write_bytes(path.read_bytes())
    return run


def test_a_pool_of_other_images_is_refused(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = without(finished, tmp_path / "run", "none")
    secret = run / "clients" / "1" / "secret"
    secret.write_bytes(secret.read_bytes()[::-1])
    assert call(f"run={run}", f"output={tmp_path / 'out'}") == 2
    assert "does not hold the releases of client 1's images" in refused(capsys)


@pytest.mark.parametrize("missing", ["config.json", "summary.json", "clients", "clients/1/secret", "server"])
def test_a_run_that_is_not_whole_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    run = without(finished, tmp_path / "run", missing)
    assert call(f"run={run}", f"output={tmp_path / 'out'}") == 2
    assert "`run` = " in refused(capsys)
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_cut_off_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small(tmp_path / "run", num_rounds=1, model="nano")
    federate(config, connect(config))
    capsys.readouterr()
    write_config(config, tmp_path / "run")
    assert call(f"run={tmp_path / 'run'}") == 2
    assert "the folder of a run that has reached its end" in refused(capsys)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda run: "run=", "`run` = '' is not allowed: the folder of a finished run"),
        (lambda run: f"run={run}/absent", "is not allowed: the folder of a finished run"),
        (lambda run: "shadow_steps=0", "`shadow_steps` = 0 is not allowed: a whole number >= 1"),
        (lambda run: "shadow_model=huge", "`shadow_model` = 'huge' is not allowed: one of nano"),
        (lambda run: "seed=-1", "`seed` = -1 is not allowed"),
        (lambda run: f"output={run}", "is not allowed: a new or empty folder"),
        (lambda run: "shadow_step=2", "`shadow_step` is not a setting; did you mean `shadow_steps`"),
    ],
)
def test_a_mistake_is_refused_in_one_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: Callable[[Path], str], message: str
) -> None:
    assert call(f"run={finished}", f"output={tmp_path}", wrong(finished)) == 2
    assert message in refused(capsys)
