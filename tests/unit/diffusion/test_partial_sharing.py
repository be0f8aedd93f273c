from __future__ import annotations

import pytest
from torch import nn

from collafuse_flwr.config.strategies import STRATEGIES
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.diffusion.partial_sharing import (
    PARTS,
    freeze_other_parts,
    part_names,
    shared_names,
    uploaded_part,
)
from collafuse_flwr.diffusion.unet import ImageShape, build_network

NAMES = list(build_network("tiny", ImageShape(1, 8, 10), 0, "any").state_dict())
MODULES = {"encoder": "conv_in time_embedding class_embedding down_blocks", "bottleneck": "mid_block"}
HALVES = STRATEGIES["usplit"].shared_parts
MODULES["decoder"] = "up_blocks conv_norm_out conv_out"


def modules(names: list[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_these_modules(part: str) -> None:
    assert modules(part_names(NAMES, part)) == set(MODULES[part].split())


def test_the_parts_make_up_the_network() -> None:
    in_parts = [name for part in PARTS for name in part_names(NAMES, part)]
    assert sorted(in_parts) == sorted(NAMES)
    assert part_names(NAMES, "all") == NAMES
    assert sorted(in_parts) == sorted([*part_names(NAMES, "encoder"), *part_names(NAMES, "bottleneck+decoder")])


@pytest.mark.parametrize(
    ("strategy", "modules_shared"),
    [
        ("fedavg", "encoder bottleneck decoder"),
        ("fedprox", "encoder bottleneck decoder"),
        ("usplit", "encoder bottleneck decoder"),
        ("ulatdec", "bottleneck decoder"),
        ("udec", "decoder"),
    ],
)
def test_a_strategy_shares_exactly_its_parts(strategy: str, modules_shared: str) -> None:
    expected = {module for part in modules_shared.split() for module in MODULES[part].split()}
    shared = STRATEGIES[strategy].shared_parts
    assert modules(shared_names(shared, NAMES)) == expected
    assert len(shared_names(shared, NAMES)) == sum(name.split(".")[0] in expected for name in NAMES)


def test_usplit_uploads_half_a_network_and_every_client_both_halves_in_turn() -> None:
    assert {uploaded_part(HALVES, 0, 1), uploaded_part(HALVES, 1, 1)} == set(HALVES)
    assert uploaded_part(HALVES, 0, 1) != uploaded_part(HALVES, 0, 2)
    assert uploaded_part(("all",), 0, 1) == uploaded_part(("all",), 1, 2) == "all"


def test_other_networks_can_be_averaged_only_whole() -> None:
    names = list(nn.Linear(1, 1).state_dict())
    assert shared_names(STRATEGIES["fedavg"].shared_parts, names) == names
    assert shared_names(STRATEGIES["udec"].shared_parts, names) == []


@pytest.mark.parametrize("parts", ["encoder", "bottleneck", "decoder", "encoder+bottleneck", "bottleneck+decoder"])
def test_other_parts_take_no_gradient_but_the_embedding_of_the_label_does(parts: str) -> None:
    network = freeze_other_parts(build_network("tiny", ImageShape(1, 8, 10), 0, "any"), parts)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {*part_names(NAMES, parts), *(name for name in NAMES if name.startswith("class_embedding."))}


def test_a_network_without_such_parts_is_refused() -> None:
    with pytest.raises(SettingError, match=r"^`client.trained_parts` = 'decoder' is not allowed: all for a network"):
        freeze_other_parts(nn.Linear(2, 2), "decoder")
