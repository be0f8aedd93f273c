"""Clients that train a part of their denoiser keep the rest as it started, whatever the strategy averages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from collafuse_flwr.diffusion.partial_sharing import part_names
from tests.small_runs import metrics, run_strategy, small
from tests.starts import client_tensors, start_network, write_start

SETTINGS: dict[str, Any] = {"model": "nano", "client.trained_parts": "decoder"}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_start(tmp_path_factory.mktemp("start"), classes=10)


def moved(folder: Path, client: int, before: dict[str, Tensor]) -> set[str]:
    """The names of a client's weights that are not as before, but for the rounding of a mean of equal ones."""
    after = client_tensors(folder, client)
    return {name for name, x in before.items() if not after[f"network.{name}"].allclose(x, rtol=1e-6, atol=0)}


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "local"},
        {"strategy": "collafuse", "client.init_from": "random"},
        {"strategy": "hybrid", "client.init_from": "random"},
        {"strategy": "fedavg"},
        {"strategy": "fedavg", "averaging.clip_norm": 0.5},
        {"strategy": "local", "dp.noise_multiplier": 1.0},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_the_rest_stays_at_the_public_start(tmp_path: Path, start: Path, settings: dict[str, Any]) -> None:
    run_strategy(small(tmp_path, **SETTINGS | settings, start_from=str(start)))
    assert not any(row["rejected"] or row["failed"] for row in metrics(tmp_path))
    before = start_network(10).state_dict()
    decoder = set(part_names(before, "decoder"))
    for client in range(3):
        assert decoder <= moved(tmp_path, client, before) <= decoder | {"class_embedding.weight"}


def test_its_state_holds_moments_of_the_trained_parts_alone(tmp_path: Path, start: Path) -> None:
    run_strategy(small(tmp_path, **SETTINGS, strategy="local", start_from=str(start)))
    tensors = client_tensors(tmp_path, 0)
    weights = {name.removeprefix("network."): x for name, x in tensors.items() if name.startswith("network.")}
    trained = [weights[name].numel() for name in [*part_names(weights, "decoder"), "class_embedding.weight"]]
    assert (
        len(tensors["adam.exp_avg"])
        == len(tensors["average"])
        == sum(trained)
        < sum(map(Tensor.numel, weights.values()))
    )


def test_the_rest_stays_at_the_backbone(tmp_path: Path) -> None:
    """Clients that take the backbone share what they do not train."""
    settings = SETTINGS | {"client.init_from": "backbone", "client.start_round": 1}
    run_strategy(small(tmp_path, **settings))
    first, *others = [client_tensors(tmp_path, client) for client in range(3)]
    names = [name.removeprefix("network.") for name in first if name.startswith("network.")]
    for other in others:
        moved_names = {name for name in names if not first[f"network.{name}"].equal(other[f"network.{name}"])}
        assert set(part_names(names, "decoder")) <= moved_names
        assert moved_names <= {*part_names(names, "decoder"), "class_embedding.weight"}


@pytest.mark.parametrize("own", [{"strategy": "local"}, {"strategy": "fedavg", "averaging.finetune_epochs": 0.5}])
def test_gradients_of_what_is_not_trained_cost_nothing(tmp_path: Path, start: Path, own: dict[str, Any]) -> None:
    """The decoder holds most of a U-Net's operations, and the label's embedding is before everything."""
    costs = {}
    for parts in ("all", "bottleneck+decoder", "decoder"):
        folder = tmp_path / parts
        run_strategy(
            small(folder, **SETTINGS | own | {"client.trained_parts": parts}, start_from=str(start), num_rounds=1)
        )
        (row,) = metrics(folder)
        costs[parts] = [client["flops"] / client["image_updates"] for client in row["clients"].values()]
        tuned = [client for client in row["evaluation"].values() if client.get("tuned_updates")]
        costs[parts] += [client["tuned_flops"] / client["tuned_updates"] for client in tuned]
        assert len(costs[parts]) == 3 * len(own)
    for every, more, decoder in zip(costs["all"], costs["bottleneck+decoder"], costs["decoder"], strict=True):
        assert 0.85 * every < decoder < 0.9 * every < more < 0.95 * every
