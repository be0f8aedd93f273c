"""Whole runs that are conditioned on attributes, drop conditions, mirror images, or have no condition."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.core.tensor_io import read_tensors
from collafuse_flwr.data.federated import federation_data
from simulations import generate, runners
from strategies.client_manager import ClientManager
from strategies.collafuse import CollaFuse
from tests.attributes import NAMES, digits_with_attributes
from tests.commands import refused
from tests.messages import HELLO
from tests.small_runs import bytes_of, federate, in_file_order, metrics, run_strategy, small

ATTRIBUTES: dict[str, Any] = {"data.conditioning": "attributes", "model": "nano"}
#: What changes every draw of training.
EVERYTHING: dict[str, Any] = {
    "train.cfg_dropout": 0.3,
    "train.random_hflip": True,
    "sampling.guidance_scale": 2.0,
    "model": "nano",
}


@pytest.fixture(autouse=True, scope="module")
def digits() -> Iterator[None]:
    with digits_with_attributes():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long enough for the brightness, which half of the images have inverted, to be learnt."""
    folder = tmp_path_factory.mktemp("finished")
    more = {
        "train.local_epochs": 10.0,
        "server.batch_size": 16,
        "evaluation.num_samples": 60,
        "train.cfg_dropout": 0.2,
        "evaluation.tstr": "pooled",
        "sampling.sampler": "dpm++",
    }
    return runners.run(small(folder, runner="local", **ATTRIBUTES | more)).folder


def call(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["generate", *arguments])
        return generate.main()


def brightness(folder: Path) -> float:
    """The mean pixel of a folder of images, in 0..1."""
    images = [np.asarray(Image.open(path).convert("L")) for path in folder.glob("*.png") if path.stem != "grid"]
    return float(np.stack(images).mean() / 255)


def test_samples_have_the_attributes_of_real_images_and_their_class(finished: Path) -> None:
    for client in range(3):
        path = finished / "clients" / str(client) / "samples.safetensors"
        samples, metadata = read_tensors(path)
        assert tuple(json.loads(metadata["attribute_names"])) == NAMES
        assert samples["attributes"].dtype == torch.uint8
        bits = samples["attributes"][:, :4].long() @ torch.tensor([1, 2, 4, 8])
        assert torch.equal(samples["labels"], bits), "a digit is named by its binary digits"
    assert json.loads((finished / "summary.json").read_text())["pooled"]["tstr"] is not None


def test_a_requested_attribute_shows(
    finished: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The mean pixel of digits is 0.31, of their negatives 0.69."""
    shown = {}
    for name, more in (("positive", "attributes=one"), ("negative", "attributes=one,negative"), ("any", "attributes=")):
        output = tmp_path / name
        assert call(f"run={finished}", "client=1", "num_images=24", more, f"output={output}") == 0
        shown[name] = brightness(output)
    record_property("mean pixel", {name: round(value, 3) for name, value in shown.items()})
    assert shown["negative"] - shown["positive"] > 0.15
    assert shown["positive"] < shown["any"] < shown["negative"]
    described = json.loads((tmp_path / "negative" / "generated.json").read_text())
    assert described["attributes"] == ["one", "negative"]


def test_samples_of_the_run_show_it_too(finished: Path) -> None:
    kept = [read_tensors(path)[0] for path in finished.glob("clients/*/samples.safetensors")]
    images, negative = (torch.cat([own[name] for own in kept]) for name in ("images", "attributes"))
    means, is_negative = images.mean(dim=(1, 2, 3)), negative[:, NAMES.index("negative")] == 1
    assert means[is_negative].mean() - means[~is_negative].mean() > 0.3


def test_guidance_of_generation_is_the_runs_own_unless_given(finished: Path, tmp_path: Path) -> None:
    made = {}
    for given in ("", "1", "0", "3"):
        output = tmp_path / f"w{given}"
        assert call(f"run={finished}", "client=1", "num_images=4", f"guidance={given}", f"output={output}") == 0
        made[given] = (output / "grid.png").read_bytes()
    assert made[""] == made["1"]
    assert len(set(made.values())) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("attributes=one,grey", f"`attributes` = 'grey' is not allowed: names among {', '.join(NAMES)}"),
        ("label=3", "`label` = 3 is not allowed: -1: the networks of this run know no classes"),
        ("guidance=-1", "`guidance` = -1 is not allowed: a number >= 0"),
        ("guidance=much", "`guidance` = 'much' is not allowed: a number >= 0"),
    ],
)
def test_what_cannot_be_generated_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str, message: str
) -> None:
    assert call(f"run={finished}", f"output={tmp_path / 'images'}", wrong) == 2
    assert message in refused(capsys)


def test_the_networks_are_diffusers_folders(finished: Path) -> None:
    for folder in (finished / "server" / "backbone", finished / "clients" / "2" / "denoiser"):
        unet = UNet2DConditionModel.from_pretrained(folder / "unet")
        attributes = torch.zeros(1, len(NAMES) + 1)
        assert unet(torch.zeros(1, 1, 8, 8), 3, None, class_labels=attributes).sample.shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    "settings",
    [
        {"upload.share_labels": False, "client.init_from": "backbone"},
        {"strategy": "clean_server", "sampling.guidance_scale": 2.0, "train.cfg_dropout": 0.2},
        {
            "strategy": "hybrid",
            "sampling.guidance_scale": 0.5,
            "train.cfg_dropout": 0.2,
            "client.init_from": "backbone",
        },
        {"strategy": "usplit", "sampling.guidance_scale": 2.0, "train.cfg_dropout": 0.2},
        {"cut.client_ratios": [0, 0.3, 1], "upload.draws_per_image": 2},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_every_strategy_runs_with_attributes(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = small(tmp_path, num_rounds=1, train__local_epochs=0.5, **ATTRIBUTES | settings)
    strategy = run_strategy(config)
    assert set(metrics(tmp_path)[-1]["evaluation"]) == {"0", "1", "2"}
    if isinstance(strategy, CollaFuse):
        for client in strategy.pool.shares:
            held = federation_data(config.data, 3, 0).client(client).train.metadata.attributes
            assert held is not None
            pooled = strategy.pool.labels_of(client)
            if not config.upload.share_labels:
                assert pooled is None
                continue
            assert pooled is not None
            expected = np.concatenate([held.numpy()] * config.upload.draws_per_image)
            assert np.array_equal(in_file_order(config, tmp_path, client, pooled.numpy()), expected)
    for client in range(3):
        samples, _ = read_tensors(tmp_path / "clients" / str(client) / "samples.safetensors")
        assert samples["attributes"].shape == (len(samples["images"]), len(NAMES))


@pytest.mark.parametrize("condition", ["classes", "attributes"])
def test_a_killed_run_that_drops_and_mirrors_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, condition: str
) -> None:
    def config(name: str) -> Any:
        return small(tmp_path / name, data__conditioning=condition, train__local_epochs=0.5, **EVERYTHING)

    federate(config("whole"))
    original = CollaFuse.configure_evaluate

    def dies(self: CollaFuse, *arguments: Any) -> Any:
        if self.history.rounds[-1].round == 2:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(CollaFuse, "configure_evaluate", dies)
        with pytest.raises(KeyboardInterrupt):
            federate(config("killed"))
    federate(config("killed"))
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_guidance_costs_a_second_call_and_changes_samples_alone(tmp_path: Path) -> None:
    folders = {weight: tmp_path / str(weight) for weight in (1.0, 2.0)}
    for weight, folder in folders.items():
        federate(
            small(folder, num_rounds=1, train__local_epochs=0.5, **EVERYTHING | {"sampling.guidance_scale": weight})
        )
    (plain,), (cfg_denoiser,) = (metrics(folder) for folder in folders.values())
    for client in "012":
        for flops in ("flops_per_image", "server_flops_per_image"):
            assert cfg_denoiser["evaluation"][client][flops] == 2 * plain["evaluation"][client][flops] > 0
        assert cfg_denoiser["clients"][client] == plain["clients"][client]
        assert cfg_denoiser["evaluation"][client]["held_out_loss"] == plain["evaluation"][client]["held_out_loss"]
    differ = {name for name, held in bytes_of(folders[1.0]).items() if bytes_of(folders[2.0])[name] != held}
    samples = {f"clients/{client}/samples.safetensors" for client in range(3)}
    assert differ == samples | {"server/hand_over.safetensors"}


def test_all_clients_must_have_the_same_attributes() -> None:
    members = ClientManager(Config.from_flat({"data.conditioning": "attributes"}))
    counts = {0: 4, 1: 5, 2: 5}
    members.client_infos = {i: replace(HELLO, partition_id=i, num_attributes=count) for i, count in counts.items()}
    members.nodes = {i: 10 + i for i in counts}
    members._agree()
    assert sorted(members.client_infos) == [1, 2]
    assert "client 0 has" in members.refused[10]
    assert "with 4 attributes, client 1 has" in members.refused[10]
    with pytest.raises(UploadError, match="describes no images"):
        members._check(replace(HELLO, partition_id=3, num_attributes=0))


def test_nothing_that_nothing_is_conditioned_on_is_sent(tmp_path: Path) -> None:
    strategy = federate(small(tmp_path, num_rounds=1, data__conditioning="none", model="nano", train__local_epochs=0.5))
    assert strategy.pool.labels_of(0) is None
    assert "class_embedding.weight" not in strategy.backbone.network.state_dict()
