"""Every setting is held to its declaration, and its default is the same wherever a run is started."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.config.config import Config, setting_help, setting_names
from collafuse_flwr.config.gan import LEAST
from collafuse_flwr.config.sections import GANS, MIXED, TARGETS
from collafuse_flwr.core.errors import SettingError

SECTIONS: list[Any] = [section.default_factory for section in fields(Config)]
SPECS = {spec.name: spec for section in SECTIONS for spec in fields(section)}
BY_TYPE = {kind: sorted(name for name, spec in SPECS.items() if spec.type == kind) for kind in ("bool", "int", "float")}
CHOICES = sorted(name for name, spec in SPECS.items() if spec.metadata["choices"])
PATHS = sorted(name for name, spec in SPECS.items() if spec.metadata["or_path"])
RANGED = sorted(name for name, spec in SPECS.items() if spec.type in ("int", "float"))

#: What a setting needs of others at the ends of its range.
NEEDED: dict[str, dict[str, object]] = {"timesteps": {"cut_ratio": 1.0}, "guidance": {"label_dropout": 0.1}}

SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "none": st.none(),
    "bool": st.booleans(),
    "int": st.integers(),
    "float": st.floats(),
    "str": st.text(max_size=8),
    "list": st.lists(st.integers(), max_size=2),
    "bytes": st.binary(max_size=4),
}
#: What a setting of each type takes no value of: floats take whole numbers, text takes numbers as they were typed.
WRONG = {
    "bool": ("none", "int", "float", "str", "list", "bytes"),
    "int": ("none", "bool", "float", "str", "list", "bytes"),
    "float": ("none", "bool", "str", "list", "bytes"),
    "str": ("none", "bool", "list", "bytes"),
}


def bounds(spec: Any) -> tuple[float | None, float | None]:
    meta = spec.metadata
    return (meta["low"] if meta["above"] is None else meta["above"]), meta["high"]


def valid(spec: Any) -> st.SearchStrategy[Any]:
    """Values that a setting takes, apart from the others."""
    low, high = bounds(spec)
    if spec.metadata["choices"]:
        paths = [st.just("package.module:factory")] if spec.metadata["or_path"] else []
        return st.one_of(st.sampled_from(spec.metadata["choices"]), *paths)
    if spec.type == "int":
        return st.integers(low, None if high is None else int(high))  # type: ignore[arg-type]
    if spec.type == "float":
        return st.floats(
            low, high, exclude_min=spec.metadata["above"] is not None, allow_nan=False, allow_infinity=False
        )
    return st.booleans() if spec.type == "bool" else st.text(max_size=8)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Settings that are allowed alone and together."""
    flat = {name: draw(valid(spec)) for name, spec in SPECS.items()}
    flat["num_supernodes"] = clients = draw(st.integers(1, 5))
    flat["min_supernodes"] = draw(st.integers(0, clients))
    flat["client_init_round"] = draw(st.integers(0, flat["num_rounds"]))
    # A cut between 0 and half a step is refused: it would be a promise that uploads are noised.
    cuts = st.just(0.0) | st.floats(0.51 / flat["timesteps"], 1)
    flat["cut_ratio"] = draw(cuts)
    ratios = draw(st.none() | st.lists(cuts, min_size=clients, max_size=clients))
    if ratios is None or flat["strategy"] not in MIXED:
        flat["client_cut_ratios"] = ""
    else:
        flat["client_cut_ratios"] = ",".join(map(str, ratios))
    flat["max_releases"] = draw(st.just(0) | st.integers(flat["copies_per_image"], 2 * flat["copies_per_image"]))
    for name in TARGETS:
        flat[name] = ""
    if not flat["client_cut_ratios"] and flat["strategy"] in MIXED:
        flat[draw(st.sampled_from(sorted(TARGETS)))] = draw(st.sampled_from(["", "0.5"]))
    flat["devices"] = (
        "paper7" if flat["cut_seconds"] else draw(st.sampled_from(["", "paper7", "2," * (clients - 1) + "1:2:3"]))
    )
    if flat["dataset"] != "celeba":
        flat["class_attribute"] = ""
    flat["overlap"] &= flat["partition"] == "by_attribute"
    flat |= {"dropped_classes": "0:1", "size_shares": "1:1"}
    if flat["upload"] == "official":
        flat["copies_per_image"] = 1
    if flat["strategy"] in ("oracle", "centralised"):
        flat["dp_noise_multiplier"] = 0.0
    if flat["strategy"] in GANS:
        flat |= {"condition": "classes", "dp_noise_multiplier": 0.0, "client_cuts": ""} | dict.fromkeys(LEAST, 0)
        flat |= {name: min(flat[name], clients) for name in ("num_clusters", "generated_batches")}
    if flat["condition"] == "none" or not flat["label_dropout"]:
        flat["guidance"] = 1.0
    return Config.from_flat(flat)


def refused(name: str, value: object) -> SettingError:
    """How a setting of this value is refused: in one line that names it, the value and what is allowed."""
    with pytest.raises(SettingError) as caught:
        Config.from_flat({name: value})
    error = caught.value
    assert str(error) == f"`{name}` = {error.value!r} is not allowed: {error.allowed}"
    assert len(str(error).splitlines()) == 1
    assert error.allowed in setting_help()[name]
    return error


def test_the_defaults_are_allowed() -> None:
    assert Config.from_flat({}) == Config()
    assert Config.from_flat(Config().to_flat()) == Config()


def test_names_are_unique_over_the_sections() -> None:
    declared = [spec.name for section in SECTIONS for spec in fields(section)]
    assert list(setting_names()) == declared
    assert len(set(declared)) == len(declared)
    assert setting_help().keys() == set(setting_names())


def test_every_default_lies_within_its_own_range() -> None:
    """As a value that was given: a default that is out of range would otherwise pass unseen."""
    for name, value in Config().to_flat().items():
        assert Config.from_flat({name: value}) == Config()


@settings(max_examples=50)
@given(configs())
def test_settings_survive_flowers_run_config(config: Config) -> None:
    flower = config.to_flower()
    assert Config.from_flat(flower) == config
    assert not any("_" in name for name in flower)
    assert {type(value) for value in flower.values()} <= {bool, int, float, str}, "Flower knows no others"
    assert all(type(value).__name__ == SPECS[name.replace("-", "_")].type for name, value in flower.items())


@settings(max_examples=200)
@given(st.data())
def test_a_value_of_the_wrong_type_is_refused(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(SPECS)))
    value = data.draw(st.one_of(*(SCALARS[kind] for kind in WRONG[SPECS[name].type])))  # type: ignore[index]
    error = refused(name, value)
    assert error.name == name
    assert error.value is value


@settings(max_examples=200)
@given(st.data())
def test_a_number_out_of_range_is_refused(data: st.DataObject) -> None:
    spec = SPECS[data.draw(st.sampled_from(RANGED))]
    low, high = bounds(spec)
    numbers = st.integers if spec.type == "int" else st.floats
    above = spec.metadata["above"] is not None
    outside = [] if low is None else [st.just(low) if above else numbers(max_value=low).filter(lambda v: v < low)]  # type: ignore[arg-type]
    outside += [] if low is None else [numbers(max_value=low).filter(lambda v: v <= low if above else v < low)]  # type: ignore[arg-type]
    outside += [] if high is None else [numbers(min_value=high).filter(lambda v: v > high)]  # type: ignore[arg-type]
    assert outside, "every number has a bound"
    error = refused(spec.name, data.draw(st.one_of(*outside)))
    assert any(f"{bound:g}" in error.allowed for bound in (low, high) if bound is not None)


@pytest.mark.parametrize("name", RANGED)
def test_the_ends_of_a_range_are_part_of_it_unless_it_is_open(name: str) -> None:
    spec, (low, high) = SPECS[name], bounds(SPECS[name])
    assert low is not None
    if spec.metadata["above"] is not None:
        refused(name, low)
        low = math.nextafter(low, math.inf) if spec.type == "float" else low + 1
    kind = int if spec.type == "int" else float
    for end in (low, high):
        if end is not None:
            assert Config.from_flat(NEEDED.get(name, {}) | {name: kind(end)})


@settings(max_examples=100)
@given(st.sampled_from(CHOICES), st.text(max_size=12))
def test_an_unknown_choice_is_refused_with_those_there_are(name: str, value: str) -> None:
    spec = SPECS[name]
    if value in spec.metadata["choices"] or (name in PATHS and ":" in value):
        assert Config.from_flat({name: value}).to_flat()[name] == value
        return
    error = refused(name, value)
    assert all(choice in error.allowed for choice in spec.metadata["choices"])


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_allowed(name: str) -> None:
    for choice in SPECS[name].metadata["choices"]:
        assert Config.from_flat({name: choice}).to_flat()[name] == choice


@pytest.mark.parametrize("name", CHOICES)
def test_only_networks_may_be_a_path_to_a_factory(name: str) -> None:
    if name in ("model", "client_model"):
        assert Config.from_flat({name: "package.module:factory"}).to_flat()[name] == "package.module:factory"
    else:
        refused(name, "package.module:factory")


@pytest.mark.parametrize("name", BY_TYPE["float"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_what_no_float_can_hold_is_refused(name: str, value: float) -> None:
    refused(name, value)


@pytest.mark.parametrize("name", BY_TYPE["int"] + BY_TYPE["float"])
@pytest.mark.parametrize("value", [True, False])
def test_true_and_false_are_no_numbers(name: str, value: bool) -> None:
    refused(name, value)


@pytest.mark.parametrize("name", BY_TYPE["bool"])
@pytest.mark.parametrize("value", [0, 1, "true", "false"])
def test_numbers_and_words_are_not_true_or_false(name: str, value: object) -> None:
    assert refused(name, value).allowed == "true or false"


def test_a_whole_number_passes_as_a_float_and_a_number_as_text() -> None:
    config = Config.from_flat({"local-epochs": 3, "client-cut-ratios": 0.25, "num-supernodes": 1, "dataset-path": 7})
    assert type(config.train.local_epochs) is float
    assert config.cut_ratios() == (0.25,)
    assert config.data.dataset_path == "7"


@pytest.mark.parametrize("name", ["cut", "cut-ration", "run", "", "Cut-Ratio"])
def test_an_unknown_name_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(
        SettingError, match=rf"^`{name.replace('-', '_')}` = 0.5 is not allowed: no such setting"
    ) as caught:
        Config.from_flat({name: 0.5})
    assert all(known in str(caught.value) for known in setting_names())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("separator", ["-", "_"])
def test_a_name_may_be_written_either_way(separator: str) -> None:
    assert Config.from_flat({f"cut{separator}ratio": 0.5}).split.cut_ratio == 0.5
