"""Federated averaging on digits: against local training, against a mean written out, and with what goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message
from safetensors.torch import load_file
from torch import Tensor

from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.config.strategies import STRATEGIES
from collafuse_flwr.diffusion.partial_sharing import shared_names
from collafuse_flwr.diffusion.unet import WEIGHTS, ImageShape, build_network
from collafuse_flwr.runs.run_layout import RunLayout
from strategies.fedavg import PartialFedAvg
from tests.small_runs import bytes_of, connect, metrics, run_strategy, small, spoiled
from tests.strategy_kinds import FEDERATED


def run(folder: Path, **settings: Any) -> PartialFedAvg:
    strategy = run_strategy(small(folder, **({"strategy": "fedavg"} | settings)))
    assert isinstance(strategy, PartialFedAvg)
    return strategy


def state(folder: Path, client: int) -> dict[str, Tensor]:
    return ClientStore(RunLayout(folder).client(client).folder).load(before=100)[1]


def weights(folder: Path, client: int) -> dict[str, Tensor]:
    own = state(folder, client)
    return {name.removeprefix("network."): value for name, value in own.items() if name.startswith("network.")}


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
def test_one_client_alone_trains_locally_bit_for_bit(tmp_path: Path, strategy: str) -> None:
    no_pull = {"fedprox.proximal_mu": 0.0} if strategy == "fedprox" else {}
    run(tmp_path / "federated", strategy=strategy, num_supernodes=1, **no_pull)
    run_strategy(small(tmp_path / "local", strategy="local", num_supernodes=1))
    federated, local = state(tmp_path / "federated", 0), state(tmp_path / "local", 0)
    assert federated.keys() == local.keys()
    for name, value in local.items():
        assert torch.equal(federated[name], value), name
    for name in ("samples.safetensors", "denoiser/unet/diffusion_pytorch_model.safetensors"):
        ours, theirs = (RunLayout(tmp_path / kind).client(0).folder / name for kind in ("federated", "local"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_the_shared_weights_are_the_mean_weighted_by_images(tmp_path: Path) -> None:
    strategy = run(tmp_path, num_rounds=1)
    counts = {int(client): count for client, count in metrics(tmp_path)[0]["images"].items()}
    total = sum(counts.values())
    assert len(set(counts.values())) > 1
    for name, value in strategy.shared.items():
        expected = sum((counts[c] / total * weights(tmp_path, c)[name].double() for c in counts), torch.zeros(()))
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-7)
    saved = load_file(tmp_path / "server" / "backbone" / "unet" / "diffusion_pytorch_model.safetensors")
    for client in counts:
        denoiser = RunLayout(tmp_path).client(client).denoiser / WEIGHTS
        own = load_file(denoiser)
        assert all(torch.equal(own[name], value) for name, value in saved.items())


def test_fedprox_without_its_term_is_fedavg_and_with_it_stays_closer(tmp_path: Path) -> None:
    one = {"num_rounds": 1}
    plain = run(tmp_path / "avg", **one)
    zero = run(tmp_path / "zero", strategy="fedprox", fedprox__proximal_mu=0.0, **one)
    strong = run(tmp_path / "strong", strategy="fedprox", fedprox__proximal_mu=100.0, **one)
    assert bytes_of(tmp_path / "avg") == bytes_of(tmp_path / "zero")
    start = build_network("nano", ImageShape(1, 8, 10), 0, "client 0").state_dict()

    def moved(strategy: PartialFedAvg) -> float:
        return sum(float((value - start[name]).square().sum()) for name, value in strategy.shared.items())

    assert moved(zero) == moved(plain)
    assert moved(strong) < 0.5 * moved(plain)


@pytest.mark.parametrize("scheme", ["usplit", "ulatdec", "udec"])
def test_a_partial_scheme_shares_exactly_its_parts(tmp_path: Path, scheme: str) -> None:
    strategy = run(tmp_path, strategy=scheme, num_rounds=2)
    start = build_network("nano", ImageShape(1, 8, 10), 0, "client 0").state_dict()
    shared = set(shared_names(STRATEGIES[scheme].shared_parts, start))
    assert set(strategy.shared) == shared
    denoisers = [load_file(RunLayout(tmp_path).client(client).denoiser / WEIGHTS) for client in range(3)]
    for name in start:
        same = all(torch.equal(denoisers[0][name], other[name]) for other in denoisers[1:])
        assert same == (name in shared), name


def test_usplit_halves_what_clients_send(tmp_path: Path) -> None:
    for scheme in ("fedavg", "usplit"):
        run(tmp_path / scheme, strategy=scheme, num_rounds=2)
    sent = {
        scheme: [sum(row["bytes_up"].values()) for row in metrics(tmp_path / scheme)] for scheme in ("fedavg", "usplit")
    }
    for whole, half in zip(sent["fedavg"], sent["usplit"], strict=True):
        assert 0.3 * whole < half < 0.7 * whole


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    settings = {"num_rounds": 3, "strategy": "ulatdec", "federation.fraction_train": 0.7}
    run(tmp_path / "straight", **settings)
    config = small(tmp_path / "resumed", **settings)

    def die(message: Message, context: Context) -> Message | None:
        raise KeyboardInterrupt

    grid = connect(config, spoiled(1, die, rounds=[2, 3]))
    with pytest.raises(KeyboardInterrupt):
        run_strategy(config, grid)
    run_strategy(config)
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "resumed")
    assert bytes_of(tmp_path / "straight") == bytes_of(tmp_path / "resumed")


@pytest.mark.parametrize("strategy", FEDERATED)
def test_weights_that_do_not_fit_cost_only_their_client(tmp_path: Path, strategy: str) -> None:
    def poison(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        arrays = dict(reply.content.array_records["weights"].items())
        name = next(iter(arrays))
        arrays[name] = Array(arrays[name].numpy() * float("nan"))
        reply.content["weights"] = ArrayRecord(arrays)
        return reply

    config = small(tmp_path, strategy=strategy, num_rounds=1)
    made = run_strategy(config, connect(config, spoiled(1, poison)))
    row = metrics(tmp_path)[0]
    assert list(row["rejected"]) == ["1"]
    assert "must be finite" in row["rejected"]["1"]
    assert sorted(row["clients"]) == ["0", "2"]
    assert isinstance(made, PartialFedAvg)
    assert all(bool(value.isfinite().all()) for value in made.shared.values())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda arrays: dict(list(arrays.items())[1:]), "lacks"),
        (lambda arrays: arrays | {"x_0": next(iter(arrays.values()))}, "not requested"),
        (lambda arrays: {name: Array(a.numpy().reshape(-1)) for name, a in arrays.items()}, "must be"),
    ],
)
def test_other_weights_than_requested_are_refused(tmp_path: Path, change: Any, reason: str) -> None:
    def alter(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        reply.content["weights"] = ArrayRecord(change(dict(reply.content.array_records["weights"].items())))
        return reply

    config = small(tmp_path, strategy="fedavg", num_rounds=1)
    run_strategy(config, connect(config, spoiled(0, alter)))
    assert reason in metrics(tmp_path)[0]["rejected"]["0"]


def test_traffic_that_pays_for_no_exchange_leaves_local_training(tmp_path: Path) -> None:
    """Uploads of digits weigh far less than a network."""
    made = run(tmp_path / "paid", train__match="traffic")
    assert made.exchanges == set()
    assert all(up < 1000 for row in metrics(tmp_path / "paid") for up in row["bytes_up"].values())
    run_strategy(small(tmp_path / "local", strategy="local", train__match="traffic"))
    paid, local = (weights(tmp_path / kind, 0) for kind in ("paid", "local"))
    assert all(torch.equal(paid[name], value) for name, value in local.items())


def test_an_equal_flops_budget_gives_clients_the_work_of_the_cut(tmp_path: Path) -> None:
    settings = {"cut_ratio": 0.5, "num_rounds": 4, "client.batch_size": 2}
    run(tmp_path / "flops", train__match="client_flops", **settings)
    run_strategy(small(tmp_path / "split", strategy="collafuse", **settings))
    for kind in ("flops", "split"):
        assert sum(row["clients"]["0"]["image_updates"] for row in metrics(tmp_path / kind)) > 0
    work = [
        [sum(client["flops"] for client in row["clients"].values()) for row in metrics(tmp_path / kind)]
        for kind in ("flops", "split")
    ]
    assert work[0] == work[1]
