"""Settings that are fine alone but must go together, and what follows from several of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collafuse_flwr.config.config import Config
from collafuse_flwr.config.sections import ENDS, FEDERATED, SPLIT
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.diffusion.forward import cut_step


def test_one_cut_ratio_serves_all_clients_and_a_list_each_its_own() -> None:
    same = Config.from_flat({"num_supernodes": 3, "cut_ratio": 0.25, "timesteps": 40})
    assert same.cut_ratios() == (0.25, 0.25, 0.25)
    assert same.cut_steps() == (10, 10, 10)
    each = Config.from_flat({"num_supernodes": 3, "client_cut_ratios": "0, 0.3 ,1", "timesteps": 20})
    assert each.cut_ratios() == (0, 0.3, 1)
    assert each.cut_steps() == (0, 6, 20)


@given(st.floats(0, 1), st.integers(2, 10000))
def test_the_cut_step_is_the_one_of_the_diffusion_process(ratio: float, timesteps: int) -> None:
    if ratio > 0 and cut_step(ratio, timesteps) == 0:
        with pytest.raises(SettingError, match="clean images"):
            Config.from_flat({"cut_ratio": ratio, "timesteps": timesteps})
        return
    config = Config.from_flat({"num_supernodes": 2, "cut_ratio": ratio, "timesteps": timesteps})
    (cut,) = set(config.cut_steps())
    assert cut == cut_step(ratio, timesteps)
    assert abs(cut - ratio * timesteps) <= 0.5


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("0.1,0.2", "3 numbers in [0, 1], one per client"),
        ("0.1,0.2,0.3,0.4", "3 numbers in [0, 1], one per client"),
        ("0.1,0.2,1.5", "3 numbers in [0, 1], one per client"),
        ("0.1,0.2,-0.1", "3 numbers in [0, 1], one per client"),
        ("0.1,0.2,nan", "3 numbers in [0, 1], one per client"),
        ("0.1,0.2,inf", "3 numbers in [0, 1], one per client"),
        ("0.1;0.2;0.3", "numbers in [0, 1] separated by commas"),
        ("0.1,,0.3", "numbers in [0, 1] separated by commas"),
        ("0.1,0.2,", "numbers in [0, 1] separated by commas"),
        ("low,low,high", "numbers in [0, 1] separated by commas"),
    ],
)
def test_cut_ratios_that_are_not_one_share_per_client_are_refused(text: str, allowed: str) -> None:
    with pytest.raises(SettingError) as caught:
        Config.from_flat({"num_supernodes": 3, "client_cut_ratios": text})
    assert str(caught.value) == f"`client_cut_ratios` = {text!r} is not allowed: {allowed}"


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        (
            {"num_supernodes": 3, "min_supernodes": 4},
            "`min_supernodes` = 4 is not allowed: at most `num_supernodes` = 3",
        ),
        (
            {"upload": "official", "copies_per_image": 2},
            "`copies_per_image` = 2 is not allowed: 1 when `upload` is official",
        ),
        (
            {"copies_per_image": 3, "max_releases": 2},
            "`max_releases` = 2 is not allowed: 0, or at least `copies_per_image` = 3",
        ),
        (
            {"num_rounds": 3, "client_init_round": 4},
            "`client_init_round` = 4 is not allowed: at most `num_rounds` = 3, or clients would never train",
        ),
        (
            {"dp_noise_multiplier": 1.5, "strategy": "centralised"},
            "`dp_noise_multiplier` = 1.5 is not allowed: 0 when `strategy` is centralised, whose server sees clean "
            "images",
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
        ({"guidance": 2.0}, "1 when `label_dropout` is 0: the networks know no dropped condition"),
        ({"guidance": 0.0}, "1 when `label_dropout` is 0: the networks know no dropped condition"),
        ({"guidance": 2.0, "label_dropout": 0.1, "condition": "none"}, "1 when `condition` is none"),
    ],
)
def test_guidance_needs_a_condition_and_networks_that_know_it_dropped(flat: dict[str, object], allowed: str) -> None:
    with pytest.raises(SettingError) as caught:
        Config.from_flat(flat)
    assert str(caught.value) == f"`guidance` = {flat['guidance']} is not allowed: {allowed}"


@pytest.mark.parametrize(
    ("condition", "share", "shared"),
    [("classes", True, True), ("attributes", True, True), ("none", True, False), ("classes", False, False)],
)
def test_labels_are_shared_only_if_something_is_conditioned_on_them(condition: str, share: bool, shared: bool) -> None:
    assert Config.from_flat({"condition": condition, "share_labels": share}).shares_labels() == shared


def test_settings_of_other_data_sets_and_partitions_are_refused() -> None:
    for flat in ({"class_attribute": "Smiling", "dataset": "mnist"}, {"overlap": True, "partition": "iid"}):
        with pytest.raises(SettingError, match=r"^`(class_attribute|overlap)` = .* unless `(dataset|partition)` is"):
            Config.from_flat(flat)
    Config.from_flat({"class_attribute": "Smiling", "dataset": "celeba+awa2"})
    Config.from_flat({"overlap": True, "partition": "by_attribute"})


def test_settings_that_just_go_together_are_allowed() -> None:
    Config.from_flat({"guidance": 3.0, "label_dropout": 0.1, "condition": "attributes"})
    Config.from_flat({"num_supernodes": 3, "min_supernodes": 3})
    Config.from_flat({"upload": "official", "copies_per_image": 1})
    Config.from_flat({"num_rounds": 3, "client_init_round": 3})


@pytest.mark.parametrize(("strategy", "ratio"), [*ENDS.items(), *((name, 1.0) for name in FEDERATED)])
def test_a_strategy_that_does_not_cut_is_at_an_end(strategy: str, ratio: float) -> None:
    config = Config.from_flat({"strategy": strategy, "cut_ratio": 0.4, "num_supernodes": 2})
    assert config.cut_ratios() == (ratio, ratio)
    with pytest.raises(SettingError, match="client_cut_ratios"):
        Config.from_flat({"strategy": strategy, "client_cut_ratios": "0.1,0.2", "num_supernodes": 2})


@pytest.mark.parametrize("strategy", SPLIT)
def test_a_strategy_that_cuts_does_so_where_it_is_told(strategy: str) -> None:
    config = Config.from_flat({"strategy": strategy, "cut_ratio": 0.4, "num_supernodes": 2})
    assert config.cut_ratios() == (0.4, 0.4)


def test_the_cut_may_be_chosen_by_what_it_discloses() -> None:
    assert Config().cut_target() is None
    assert Config.from_flat({"cut_epsilon": 8}).cut_target() == ("cut_epsilon", 8.0)
    assert Config.from_flat({"cut_snr_db": "-12.5", "strategy": "pfdm"}).cut_target() == ("cut_snr_db", -12.5)
    assert Config.from_flat({"cut_reid": 1}).cut_target() == ("cut_reid", 1.0)


@pytest.mark.parametrize(
    ("flat", "allowed"),
    [
        ({"cut_reid": 1.5}, "a number above 0 and at most 1"),
        ({"cut_bits": 0}, "a number above 0"),
        ({"cut_bits": "nan"}, "a number above 0"),
        ({"cut_snr_db": "-inf"}, "a number above -inf"),
        ({"cut_epsilon": "few"}, "a number above 0"),
        ({"cut_seconds": 0, "devices": "1,2"}, "a number above 0"),
        ({"cut_seconds": 5}, "empty unless `devices` names the clients' devices"),
        ({"cut_bits": 3, "cut_reid": 0.1}, "empty when `cut_reid` is given"),
        ({"cut_bits": 3, "client_cut_ratios": "0.1,0.2"}, "empty when `client_cut_ratios` is given"),
        ({"cut_bits": 3, "strategy": "fedavg"}, "empty when `strategy` is fedavg"),
    ],
)
def test_a_target_that_makes_no_sense_is_refused(flat: dict[str, object], allowed: str) -> None:
    with pytest.raises(SettingError) as caught:
        Config.from_flat({"num_supernodes": 2} | flat)
    name = next(iter(flat))
    assert str(caught.value) == f"`{name}` = {str(flat[name])!r} is not allowed: {allowed}"


@pytest.mark.parametrize(
    ("flat", "told"),
    [
        ({"condition": "none"}, "`condition` = 'none' is not allowed: classes when `strategy` is a GAN"),
        ({"num_clusters": 4}, "`num_clusters` = 4 is not allowed: at most `num_supernodes` = 3"),
        ({"min_d_head": 2}, "`min_d_head` = 2 is not allowed: at most 1 when `gan_depth` is 1"),
        ({"gan_depth": 2, "min_d_tail": 2}, "`min_d_tail` = 2 is not allowed: at most 1 when `gan_depth` is 2"),
        ({"client_cuts": "001"}, "`client_cuts` = '001' is not allowed: four digits, as 0010, or "),
        ({"client_cuts": "0010,"}, "`client_cuts` = '0010,' is not allowed: four digits, as 0010, or "),
        ({"client_cuts": 8}, "`client_cuts` = '8' is not allowed: four digits, as 0010, or "),
        ({"client_cuts": "0010,1111"}, "`client_cuts` = '0010,1111' is not allowed: four digits, or 3 times four"),
        ({"client_cuts": "0020"}, "`client_cuts` = '0020' is not allowed: digits from (0, 0, 0, 0) to (1, 1, 1, 1)"),
        ({"client_cuts": "0001", "min_d_head": 1}, "`client_cuts` = '0001' is not allowed: digits from (0, 0, 1, 0)"),
    ],
)
def test_a_gan_that_cannot_be_is_refused(flat: dict[str, object], told: str) -> None:
    with pytest.raises(SettingError) as caught:
        Config.from_flat({"strategy": "huscf_gan", "num_supernodes": 3} | flat)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_a_gan_that_can_be_is_allowed() -> None:
    gan = {"strategy": "huscf_gan", "num_supernodes": 3}
    Config.from_flat(gan | {"client_cuts": "0010, 1111,0110", "min_d_head": 1, "num_clusters": 3})
    Config.from_flat(gan | {"client_cuts": "2121", "gan_depth": 2})
    Config.from_flat(gan | {"client_cuts": 1111, "gan_batch_size": 10**6})
