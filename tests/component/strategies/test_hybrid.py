"""CollaFuse whose clients' low-noise denoisers are averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message
from safetensors.torch import load_file
from torch import Tensor

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.diffusion.unet import WEIGHTS
from collafuse_flwr.runs.run_layout import RunLayout
from strategies.hybrid import Hybrid
from tests.small_runs import bytes_of, connect, metrics, run_strategy, small, spoiled


def run(folder: Path, **settings: Any) -> Hybrid:
    strategy = run_strategy(small(folder, strategy="hybrid", **settings))
    assert isinstance(strategy, Hybrid)
    return strategy


def denoiser(folder: Path, client: int) -> dict[str, Tensor]:
    return load_file(RunLayout(folder).client(client).denoiser / WEIGHTS)


@pytest.mark.parametrize("start", ["random", "backbone"])
def test_all_clients_finish_with_one_denoiser_and_the_backbone_is_collafuse_s(tmp_path: Path, start: str) -> None:
    run(tmp_path / "hybrid", client__init_from=start)
    run_strategy(small(tmp_path / "split", client__init_from=start))
    first = denoiser(tmp_path / "hybrid", 0)
    for client in (1, 2):
        assert all(torch.equal(value, first[name]) for name, value in denoiser(tmp_path / "hybrid", client).items())
    assert any(not torch.equal(value, first[name]) for name, value in denoiser(tmp_path / "split", 0).items())
    assert metrics(tmp_path / "hybrid")[-1]["server"] == metrics(tmp_path / "split")[-1]["server"]


def test_a_single_client_is_collafuse_bit_for_bit(tmp_path: Path) -> None:
    run(tmp_path / "hybrid", num_supernodes=1)
    run_strategy(small(tmp_path / "split", num_supernodes=1))
    for name in ("samples.safetensors", "denoiser/unet/diffusion_pytorch_model.safetensors"):
        ours, theirs = (RunLayout(tmp_path / kind).client(0).folder / name for kind in ("hybrid", "split"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    run(tmp_path / "straight", num_rounds=3)

    def die(message: Message, context: Context) -> Message | None:
        raise KeyboardInterrupt

    config = small(tmp_path / "resumed", strategy="hybrid", num_rounds=3)
    with pytest.raises(KeyboardInterrupt):
        run_strategy(config, connect(config, spoiled(1, die, rounds=[3])))
    run_strategy(config)
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "resumed")
    assert bytes_of(tmp_path / "straight") == bytes_of(tmp_path / "resumed")


def test_bad_weights_cost_the_client_its_upload_too(tmp_path: Path) -> None:
    def poison(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        arrays = dict(reply.content.array_records["weights"].items())
        name = next(iter(arrays))
        arrays[name] = Array(arrays[name].numpy() + float("inf"))
        reply.content["weights"] = ArrayRecord(arrays)
        return reply

    config = small(tmp_path, strategy="hybrid", num_rounds=1)
    made = run_strategy(config, connect(config, spoiled(1, poison)))
    assert list(metrics(tmp_path)[0]["rejected"]) == ["1"]
    assert isinstance(made, Hybrid)
    assert sorted(made.pool.shares) == [0, 2]


def test_a_record_that_is_in_no_schema_is_refused(tmp_path: Path) -> None:
    def add(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        reply.content["x_0"] = reply.content["weights"]
        return reply

    config = small(tmp_path, strategy="hybrid", num_rounds=1)
    run_strategy(config, connect(config, spoiled(1, add)))
    assert "x_0" in metrics(tmp_path)[0]["rejected"]["1"]
