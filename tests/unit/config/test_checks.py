"""Settings that are fine alone but must go together, and what follows from several of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collafuse_flwr.config.config import Config
from collafuse_flwr.config.strategies import ENDS
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.settings import missing_classes, size_skew
from collafuse_flwr.diffusion.forward import cut_step
from tests.strategy_kinds import FEDERATED, GANS, SPLIT

SCALE = "sampling.guidance_scale"
NUMBERS = "a list of numbers, [0.1,0.2]"


def test_one_cut_ratio_serves_all_clients_and_a_list_each_its_own() -> None:
    same = Config.from_flat({"num_supernodes": 3, "cut_ratio": 0.25, "diffusion.timesteps": 40})
    assert same.cut_ratios() == (0.25, 0.25, 0.25)
    assert same.cut_steps() == (10, 10, 10)
    each = Config.from_flat({"num_supernodes": 3, "cut.client_ratios": [0, 0.3, 1], "diffusion.timesteps": 20})
    assert each.cut_ratios() == (0, 0.3, 1)
    assert each.cut_steps() == (0, 6, 20)


@given(st.floats(0, 1), st.integers(2, 10000))
def test_the_cut_step_is_the_one_of_the_diffusion_process(ratio: float, timesteps: int) -> None:
    if ratio > 0 and cut_step(ratio, timesteps) == 0:
        with pytest.raises(SettingError, match="clean images"):
            Config.from_flat({"cut_ratio": ratio, "diffusion.timesteps": timesteps})
        return
    config = Config.from_flat({"num_supernodes": 2, "cut_ratio": ratio, "diffusion.timesteps": timesteps})
    (cut,) = set(config.cut_steps())
    assert cut == cut_step(ratio, timesteps)
    assert abs(cut - ratio * timesteps) <= 0.5


@pytest.mark.parametrize(
    ("ratios", "allowed"),
    [
        ([0.1, 0.2], "3 numbers in [0, 1], one per client"),
        ([0.1, 0.2, 0.3, 0.4], "3 numbers in [0, 1], one per client"),
        ([0.1, 0.2, 1.5], "3 numbers in [0, 1], one per client"),
        ([0.1, 0.2, -0.1], "3 numbers in [0, 1], one per client"),
        ([0.5], "3 numbers in [0, 1], one per client"),
        (0.5, "3 numbers in [0, 1], one per client"),
        ("[0.1,0.2]", "3 numbers in [0, 1], one per client"),
        ([0.1, 0.2, math.nan], NUMBERS),
        ([0.1, 0.2, math.inf], NUMBERS),
        ("[0.1,0.2,NaN]", NUMBERS),
        ("[0.1,0.2,Infinity]", NUMBERS),
        ("[0.1,0.2,0.3", NUMBERS),
        ("[0.1,,0.3]", NUMBERS),
        ("0.1,0.2,0.3", NUMBERS),
        ("0.1;0.2;0.3", NUMBERS),
        (["0.1", "0.2", "0.3"], NUMBERS),
        ([0.1, [0.2], 0.3], NUMBERS),
        ([0.1, None, 0.3], NUMBERS),
        ([0.1, True, 0.3], NUMBERS),
        ("low", NUMBERS),
        ({"0": 0.1}, NUMBERS),
    ],
)
def test_cut_ratios_that_are_not_one_share_per_client_are_refused(ratios: object, allowed: str) -> None:
    with pytest.raises(SettingError) as caught:
        Config.from_flat({"num_supernodes": 3, "cut.client_ratios": ratios})
    assert (caught.value.name, caught.value.allowed) == ("cut.client_ratios", allowed)
    assert "\n" not in str(caught.value)


def test_cut_ratios_as_json_text_are_those_of_the_list() -> None:
    text, listed = (
        Config.from_flat({"num_supernodes": 3, "cut.client_ratios": ratios}) for ratios in ("[0,0.3,1]", [0, 0.3, 1])
    )
    assert text == listed
    assert text.to_flower()["cut.client-ratios"] == "[0.0, 0.3, 1.0]"


@pytest.mark.parametrize("which", ["first", "last"])
def test_a_client_whose_cut_is_less_than_a_step_is_refused(which: str) -> None:
    ratios = [0.001, 0.5] if which == "first" else [0.5, 0.001]
    with pytest.raises(SettingError, match=r"^`cut.client_ratios` = 0.001 .* more than 0.005: .* clean images$"):
        Config.from_flat({"num_supernodes": 2, "cut.client_ratios": ratios})


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        (
            {"num_supernodes": 3, "federation.min_available_nodes": 4},
            "`federation.min_available_nodes` = 4 is not allowed: at most `num_supernodes` = 3",
        ),
        (
            {"upload.noise": "official", "upload.draws_per_image": 2},
            "`upload.draws_per_image` = 2 is not allowed: 1 when `upload.noise` is official",
        ),
        (
            {"upload.draws_per_image": 3, "upload.max_releases": 2},
            "`upload.max_releases` = 2 is not allowed: 0, or at least `upload.draws_per_image` = 3",
        ),
        (
            {"num_rounds": 3, "client.start_round": 4},
            "`client.start_round` = 4 is not allowed: at most `num_rounds` = 3, or clients would never train",
        ),
        (
            {"dp.noise_multiplier": 1.5, "strategy": "centralized"},
            "`dp.noise_multiplier` = 1.5 is not allowed: 0 when `strategy` is centralized, whose server sees clean "
            "images",
        ),
        (
            {"strategy": "fedavg", "averaging.noise": "server"},
            "`averaging.clip_norm` = 0.0 is not allowed: above 0 when `averaging.noise` is server",
        ),
        (
            {"strategy": "fedavg", "averaging.clip_norm": 1e-9},
            "`averaging.clip_norm` = 1e-09 is not allowed: 0, or >= 1e-06",
        ),
        (
            {"strategy": "fedavg", "averaging.clip_norm": 1.0, "train.match": "traffic"},
            "`train.match` = 'traffic' is not allowed: another one when `averaging.clip_norm` is above 0",
        ),
        (
            {"strategy": "fedavg", "averaging.finetune_epochs": 1.0, "dp.noise_multiplier": 2.0},
            "`averaging.finetune_epochs` = 1.0 is not allowed: 0 when `dp.noise_multiplier` = 2",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(flat: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        Config.from_flat(flat)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("flat", "allowed"),
    [
        ({SCALE: 2.0}, "1 when `train.cfg_dropout` is 0: the networks know no dropped condition"),
        ({SCALE: 0.0}, "1 when `train.cfg_dropout` is 0: the networks know no dropped condition"),
        (
            {SCALE: 2.0, "train.cfg_dropout": 0.1, "data.conditioning": "none"},
            "1 when `data.conditioning` is none",
        ),
    ],
)
def test_guidance_needs_a_condition_and_networks_that_know_it_dropped(flat: dict[str, object], allowed: str) -> None:
    with pytest.raises(SettingError) as caught:
        Config.from_flat(flat)
    assert str(caught.value) == f"`{SCALE}` = {flat[SCALE]} is not allowed: {allowed}"


@pytest.mark.parametrize(
    ("condition", "share", "shared"),
    [("classes", True, True), ("attributes", True, True), ("none", True, False), ("classes", False, False)],
)
def test_labels_are_shared_only_if_something_is_conditioned_on_them(condition: str, share: bool, shared: bool) -> None:
    assert Config.from_flat({"data.conditioning": condition, "upload.share_labels": share}).shares_labels() == shared


def test_settings_of_other_data_sets_and_partitions_are_refused() -> None:
    for flat in (
        {"data.class_attribute": "Smiling", "dataset": "mnist"},
        {"data.allow_overlap": True, "partition": "iid"},
        {"data.class_names": ["a", "b"], "dataset": "mnist"},
        {"data.split": "test", "dataset": "digits"},
    ):
        with pytest.raises(
            SettingError, match=r"^`data.(class_attribute|allow_overlap|class_names|split)` = .* unless"
        ):
            Config.from_flat(flat)
    Config.from_flat({"data.class_attribute": "Smiling", "dataset": ["celeba", "awa2"]})
    Config.from_flat({"data.split": "test", "dataset": ["digits", "mnist"]})
    Config.from_flat({"data.split": "test", "dataset": "package.module:factory"})
    Config.from_flat({"data.allow_overlap": True, "partition": "by_attribute"})


def test_settings_that_just_go_together_are_allowed() -> None:
    Config.from_flat({SCALE: 3.0, "train.cfg_dropout": 0.1, "data.conditioning": "attributes"})
    Config.from_flat({"num_supernodes": 3, "federation.min_available_nodes": 3})
    Config.from_flat({"upload.noise": "official", "upload.draws_per_image": 1})
    Config.from_flat({"num_rounds": 3, "client.start_round": 3})


@pytest.mark.parametrize(("strategy", "ratio"), [*ENDS.items(), *((name, 1.0) for name in (*FEDERATED, *GANS))])
def test_a_strategy_that_does_not_cut_is_at_an_end(strategy: str, ratio: float) -> None:
    config = Config.from_flat({"strategy": strategy, "num_supernodes": 2})
    assert config.cut_ratios() == (ratio, ratio)
    for name, value in (("cut_ratio", 0.4), ("cut.client_ratios", [0.1, 0.2]), ("cut.policy", "adaptive")):
        with pytest.raises(SettingError, match=rf"^`{name}` = .* its default, as `strategy` = {strategy} does not"):
            Config.from_flat({"strategy": strategy, name: value, "num_supernodes": 2})


@pytest.mark.parametrize("strategy", SPLIT)
def test_a_strategy_that_cuts_does_so_at_the_configured_ratio(strategy: str) -> None:
    config = Config.from_flat({"strategy": strategy, "cut_ratio": 0.4, "num_supernodes": 2})
    assert config.cut_ratios() == (0.4, 0.4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.missing_classes", [[0.5, 1]]),
        ("data.missing_classes", [[-1, 1]]),
        ("data.missing_classes", [[0, 0.5], [0, 0.5]]),
        ("data.missing_classes", [[0, 0]]),
        ("data.missing_classes", [[0, -1]]),
        ("data.missing_classes", []),
        ("data.missing_classes", "[]"),
        ("data.size_skew", [[0, 1]]),
        ("data.size_skew", [[1.5, 1]]),
        ("data.size_skew", [[1, 0.5], [1, 0.5]]),
        ("data.size_skew", [[1, 0.5], [0.5, 0]]),
        ("data.size_skew", []),
    ],
)
def test_shares_of_clients_that_cannot_be_are_refused(name: str, value: object) -> None:
    with pytest.raises(SettingError) as caught:
        Config.from_flat({"partition": "drop_classes", name: value})
    assert caught.value.name == name
    assert ", share of the clients above 0], each " in caught.value.allowed


def test_shares_of_clients_add_up_to_one() -> None:
    """Of the shares 1 and 3 a quarter and three quarters: exact in binary."""
    config = Config.from_flat(
        {"partition": "drop_classes", "data.missing_classes": "[[0,1],[2,3]]", "data.size_skew": [[1, 3], [0.5, 1]]}
    )
    assert missing_classes(config.data) == {0: 0.25, 2: 0.75}
    assert size_skew(config.data) == {1.0: 0.75, 0.5: 0.25}
