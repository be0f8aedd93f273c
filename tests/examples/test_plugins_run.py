"""Examples of what others add run as their READMEs say, through the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from collafuse_flwr.config.config import without_unread
from collafuse_flwr.runs.history import History
from collafuse_flwr.runs.run_dir import read_config
from collafuse_flwr.wire.fedavg import WeightsReply
from examples.strategy.fed_median import FedMedian
from simulations import run
from simulations.sweep.grid import override
from tests.commands import refused
from tests.small_runs import SMALL
from tests.strategy_kinds import GANS

QUICK = {"runner": "local", "num_supernodes": 2, "num_rounds": 1, "data.max_images": 60, "evaluation.tstr": "none"}
GAN = {"gan.batch_size": 8, "train.local_epochs": 0.5}
#: A weight of the network.
WEIGHT = "conv_in.weight"
MODEL = "examples.gan_network.dense:dense"


def command(output: Path, **settings: Any) -> int:
    """`python -m simulations.run` in this process, with a run that takes about two seconds."""
    given = settings | {"output": str(output)}
    flat = without_unread(SMALL | QUICK | given, given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["run", *(override(name, value) for name, value in flat.items())])
        return run.main()


def summary(output: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((output / "summary.json").read_text())
    return result


def test_a_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert command(folder, dataset="examples.dataset.shapes:load_shapes", model="nano") == 0
    assert summary(folder)["pooled"]["fd"] > 0
    assert (folder / "pictures" / "samples.png").is_file()


def test_a_data_set_in_a_list(tmp_path: Path) -> None:
    folder, both = tmp_path / "run", ["digits", "examples.dataset.shapes:load_shapes"]
    assert command(folder, dataset=both, image_size=8, partition="by_domain", model="nano") == 0
    assert list(summary(folder)["domains"]) == both
    # A colon is no part of a file's name everywhere.
    assert (folder / "pictures" / "domain-examples.dataset.shapes-load_shapes.png").is_file()


@pytest.mark.parametrize("setting", ["model", "client.model"])
def test_a_network_for_diffusion(tmp_path: Path, setting: str) -> None:
    given = {"model": "nano"} | {setting: "examples.diffusion_network.residual:residual"}
    assert command(tmp_path / "run", **given) == 0
    assert summary(tmp_path / "run")["pooled"]["client_flops"] > 0


@pytest.mark.parametrize("strategy", GANS)
def test_networks_for_a_gan(tmp_path: Path, strategy: str) -> None:
    folder = tmp_path / "run"
    assert command(folder, strategy=strategy, model=MODEL, **GAN) == 0
    assert read_config(folder).diffusion.model == MODEL
    assert summary(folder)["pooled"]["num_samples"] == 12


def test_a_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[torch.Tensor] = []
    accept = FedMedian._accept_training

    def watch(strategy: FedMedian, client: int, reply: WeightsReply) -> None:
        sent.append(reply.weights[WEIGHT].clone())
        accept(strategy, client, reply)

    monkeypatch.setattr(FedMedian, "_accept_training", watch)
    given = {"strategy": "examples.strategy.fed_median:SPEC", "num_supernodes": 3, "model": "nano"}
    assert command(tmp_path / "run", **given, **{"data.max_images": 90}) == 0
    checkpoint = History(tmp_path / "run").load()
    assert checkpoint is not None
    assert torch.equal(checkpoint.tensors["shared"][WEIGHT], torch.stack(sent).median(dim=0).values)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strategy": "examples.strategy.fed_median:FedMedian"}, "a StrategySpec, not "),
        ({"dataset": "examples.dataset.shapes:COUNT"}, "the factory must be callable, not int"),
        ({"dataset": "examples.dataset.no:load"}, "package.module:name of something that can be imported (No module"),
        ({"strategy": "fedgan", "model": "nano"}, "'tiny', its default, as a GAN takes no preset"),
        ({"strategy": "fedgan", "model": MODEL, "gan.width": 8}, "64, its default, as `model` = package.module"),
        ({"strategy": "huscf_gan", "model": MODEL, "split_gan.client_cuts": "1000"}, "at most 0 extra blocks"),
        ({"strategy": "huscf_gan", "model": MODEL, "split_gan.factor_tail_gradients": True}, "false when `model` is"),
        (
            {"strategy": "fedgan", "model": "examples.diffusion_network.residual:residual"},
            "must return a coll",
        ),
        ({"model": MODEL}, "the factory must return a torch module, not Architecture"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_a_mistake_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: dict[str, Any], message: str
) -> None:
    flat = QUICK | given | {"output": str(tmp_path / "run")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["run", *(override(name, value) for name, value in flat.items())])
        assert run.main() == 2
    line, setting = refused(capsys), list(given)[-1]
    assert line.startswith(f"error: `{setting}` = ")
    assert message in line
    assert not (tmp_path / "run").exists()
