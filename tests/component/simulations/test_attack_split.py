"""`python -m simulations.attack` on a split GAN: what its clients upload next is inverted, and noise blurs it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.gan.split_gan.ops import Tensors
from collafuse_flwr.runs.run_dir import write_config
from simulations import runners
from simulations.attack import __main__ as attack
from simulations.attack.attacks.activation_inversion import InversionSettings, inverted, mean_image
from simulations.attack.attacks.label_recovery import recovered_share
from simulations.attack.run import check_attack
from simulations.attack.split_view import SplitRun
from strategies.split_transport import InProcessTransport
from tests.commands import refused
from tests.small_runs import dotted, run_strategy, small
from tests.strategy_kinds import GANS

#: Two clients that keep one block of the discriminator, and one that keeps two.
SPLIT: dict[str, Any] = {
    "strategy": "huscf_gan",
    "num_rounds": 1,
    "data.max_images": 60,
    "image_size": 12,
    "gan.width": 32,
    "gan.batch_size": 8,
    "split_gan.client_cuts": ["0000", "0000", "0010"],
    "train.local_epochs": 0.5,
    "gan.transport": "in_process",
    "runner": "local",
    "evaluation.tstr": "none",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runners.run(small(tmp_path_factory.mktemp("split"), **SPLIT)).folder


@pytest.fixture(scope="module")
def attacked(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the command on the finished run."""
    folder = tmp_path_factory.mktemp("attacked")
    assert call(f"run={finished}", f"output={folder}", "split_rows=5") == 0
    return folder


def call(*arguments: str) -> int:
    """The command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["attack", *arguments])
        return attack.main()


def under(run: SplitRun, **settings: Any) -> SplitRun:
    """A run whose clients would go on with other settings; `gan__width=2` stands for `gan.width=2`."""
    return replace(run, config=Config.from_flat(run.config.to_flat() | dotted(settings)))


def row(run: SplitRun, client: int = 0, num_steps: int = 0) -> dict[str, Any]:
    seen = run.uploaded(client)
    numbers = inverted(seen, mean_image(run.data), InversionSettings(64, num_steps)).numbers
    return {**numbers, "labels_codes": None if seen is None else recovered_share(seen)}


def test_images_and_labels_of_every_client_come_back(attacked: Path) -> None:
    results = json.loads((attacked / "attacks.json").read_text())
    assert (results["strategy"], results["split_rows"], results["split_steps"]) == ("huscf_gan", 5, 60)
    assert [(one["client_cuts"], one["method"], one["rows"]) for one in results["clients"]] == [
        *(("0000", "closed form", 5),) * 2,
        # A search takes the whole batch, as it was normalised.
        ("0010", "search", 8),
    ]
    for one in results["clients"]:
        assert (one["labels_split"], one["labels_codes"], one["labels_split_chance"]) == (1, 1, 0.1)
        assert one["psnr_split"] > 40
        assert one["psnr_chance"] < 20
        assert one["ssim_split"] > 0.99 > one["ssim_chance"]


@pytest.mark.parametrize("name", ["leakage.png", "reconstructions.png"])
def test_pictures_show_something(attacked: Path, name: str) -> None:
    with Image.open(attacked / name) as picture:
        assert min(picture.size) > 100
        assert np.asarray(picture.convert("L")).std() > 10


def test_it_is_what_the_server_receives_if_the_run_goes_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    run = SplitRun.of(folder)
    expected = {client: run.uploaded(client) for client in range(3)}
    received: list[dict[int, Tensors]] = []
    answer = InProcessTransport.call

    def spy(link: InProcessTransport, phase: str, payloads: Mapping[int, Tensors]) -> dict[int, Tensors]:
        answers = answer(link, phase, payloads)
        received.extend([answers] if phase in ("latent", "fake") else [])
        return answers

    monkeypatch.setattr(InProcessTransport, "call", spy)
    run_strategy(small(folder, **SPLIT | {"num_rounds": 2}))
    for client, own in expected.items():
        assert own is not None
        torch.testing.assert_close(own.activations, received[1][client]["dh_real"])
        torch.testing.assert_close(own.codes, received[0][client]["gh"])


def test_rounding_does_not_help_and_noise_blurs_the_images(finished: Path) -> None:
    run = SplitRun.of(finished)
    halved = row(under(run, gan__wire_dtype="float16"))
    assert halved["labels_split"] == 1
    assert 40 < halved["psnr_split"] < row(run)["psnr_split"]
    noised = [row(under(run, split_gan__activation_noise=std))["psnr_split"] for std in (0.01, 0.1, 1.0)]
    assert halved["psnr_split"] > noised[0] > noised[1] > noised[2]
    assert noised[1] < 35
    assert row(under(run, split_gan__activation_noise=1.0))["labels_codes"] == 1


def test_labels_of_fakes_that_are_drawn_say_nothing_of_the_images(finished: Path) -> None:
    run = SplitRun.of(finished)
    drawn = under(run, split_gan__fake_labels="drawn")
    shares = [row(drawn, client)["labels_codes"] for client in range(3)]
    assert sum(shares) / 3 < 0.5
    assert [row(run, client)["labels_codes"] for client in range(3)] == [1, 1, 1]


def test_labels_in_the_tail_do_not_come_back_and_the_images_are_still_rebuilt(tmp_path: Path) -> None:
    tail: dict[str, Any] = {
        "split_gan.condition_at": "tail",
        "split_gan.fake_labels": "drawn",
        "split_gan.augmentation": "translation",
    }
    folder = runners.run(small(tmp_path / "run", **SPLIT | tail)).folder
    assert call(f"run={folder}", f"output={tmp_path / 'out'}") == 0
    clients = json.loads((tmp_path / "out" / "attacks.json").read_text())["clients"]
    assert [one["method"] for one in clients] == ["closed form", "closed form", "search"]
    # 24 rows at chance, or what a client's own frequencies are worth.
    for name in ("labels_codes", "labels_gradients", "labels_split"):
        assert sum(one[name] for one in clients) / 3 < 0.5
    assert all(0 <= one["labels_tail"] <= 1 for one in clients)
    # Of the first block alone.
    assert all(one["psnr_split"] > 30 for one in clients[:2])


def test_who_is_not_searched_or_never_took_part_has_no_figures(finished: Path) -> None:
    run = SplitRun.of(finished)
    unsearched = row(run, client=2)
    assert (unsearched["method"], unsearched["labels_codes"]) == (None, 1)
    absent = row(replace(run, checkpoint=replace(run.checkpoint, state={"cluster_of": {}})))
    assert (absent["method"], "psnr_split" in absent) == (None, False)


def test_a_secret_that_is_not_there_is_not_made_anew(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    (folder / "clients" / "1" / "secret").unlink()
    assert call(f"run={folder}") == 2
    assert "the folder of a simulation (there is no" in refused(capsys)


@pytest.mark.parametrize("strategy", [name for name in GANS if name != "huscf_gan"])
def test_other_gans_are_refused_before_and_after_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    config = small(tmp_path / "run", strategy=strategy)
    data = federation_data(config.data, config.run.num_supernodes, config.run.seed)
    with pytest.raises(SettingError, match=f"^`attack` = True is not allowed: false for {strategy}: no attack applies"):
        check_attack(config, data)
    check_attack(small(tmp_path / "run", strategy="huscf_gan"), data)
    write_config(config, tmp_path)
    assert call(f"run={tmp_path}", f"output={tmp_path / 'out'}") == 2
    assert refused(capsys).endswith(f"is not allowed: a run that an attack applies to, not of {strategy}")
    assert not (tmp_path / "out").exists()
