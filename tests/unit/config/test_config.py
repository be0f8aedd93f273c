"""All settings by public names and back: every form gives the same settings, and a misspelt name its nearest."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given, settings

from collafuse_flwr.config.config import DEFAULTS, GROUPS, SETTINGS, Config, setting_help
from collafuse_flwr.core.errors import SettingError
from tests.setting_values import (
    SPECS,
    configs,
)


def test_the_defaults_are_allowed() -> None:
    assert Config.from_flat({}) == Config()
    assert Config.from_flat(Config().to_flat()) == Config()


def test_public_names_are_unique_and_those_of_every_group() -> None:
    declared = [(group, spec.name) for group, kind in GROUPS.items() for spec in fields(kind)]
    assert sorted((group, spec.name) for group, spec in SETTINGS.values()) == sorted(declared)
    assert [name.rpartition(".")[2] for name in SETTINGS] == [spec.name for spec in SPECS.values()]
    assert all(name == spec.name if spec.metadata["top"] else "." in name for name, spec in SPECS.items())
    assert setting_help().keys() == SETTINGS.keys()
    assert not {name for name in SETTINGS if "." not in name} & GROUPS.keys(), "YAML has both on one level"


def test_every_default_lies_within_its_own_range() -> None:
    """As a value that was given: a default that is out of range would otherwise pass unseen."""
    for name, value in DEFAULTS.items():
        assert Config.from_flat({name: value}) == Config()


@settings(max_examples=50)
@given(configs())
def test_settings_survive_flowers_run_config(config: Config) -> None:
    flower = config.to_flower()
    assert Config.from_flat(flower) == config
    assert not any("_" in name for name in flower)
    assert {type(value) for value in flower.values()} <= {bool, int, float, str}, "Flower knows no others"
    for name, value in flower.items():
        kind = SPECS[name.replace("-", "_")].type
        assert type(value).__name__ == (kind if kind in ("bool", "int", "float") else "str")


@settings(max_examples=25)
@given(configs())
def test_settings_survive_their_other_forms(config: Config) -> None:
    assert Config.from_flat(config.to_flat()) == config
    assert Config.from_flat(json.loads(json.dumps(config.to_flat()))) == config
    nested = config.to_nested()
    flat = {name: value for name, value in nested.items() if not isinstance(value, dict)}
    for group in nested.keys() - flat.keys():
        flat |= {f"{group}.{own}": value for own, value in nested[group].items()}
    assert flat == config.to_flat()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("cut_ration", "cut_ratio"),
        ("cut-ration", "cut_ratio"),
        ("width", "gan.width"),
        ("gan.widht", "gan.width"),
        ("learning_rate", "train.learning_rate"),
        ("server.learning_rate", "train.learning_rate"),
        ("Cut-Ratio", "cut_ratio"),
        ("num_samples", "evaluation.num_samples"),
        ("data.partition", "partition"),
        ("cut.cut_ratio", "cut_ratio"),
        ("run.seed", "seed"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    message = rf"^`{name.replace('-', '_')}` = 0.5 is not allowed: no such setting; did you mean .*`{nearest}`.*\?"
    with pytest.raises(SettingError, match=message) as caught:
        Config.from_flat({name: 0.5})
    assert str(caught.value).endswith(" (--help lists all)")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "zzz", "zz.zzz", "."])
def test_a_name_that_is_near_none_is_refused_without_a_guess(name: str) -> None:
    with pytest.raises(SettingError) as caught:
        Config.from_flat({name: 0.5})
    assert str(caught.value) == f"`{name}` = 0.5 is not allowed: no such setting (--help lists all)"


@pytest.mark.parametrize("separator", ["-", "_"])
def test_a_name_may_be_written_either_way(separator: str) -> None:
    assert Config.from_flat({f"cut{separator}ratio": 0.5}).cut.cut_ratio == 0.5
    assert Config.from_flat({f"split{separator}gan.client{separator}cuts": "", "strategy": "huscf_gan"})
