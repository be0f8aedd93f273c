"""Every setting takes what it says it takes, and refuses all else in one line."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.config.config import SETTINGS, Config
from collafuse_flwr.privacy.settings import CRITERIA
from tests.setting_values import (
    BY_TYPE,
    CHOICES,
    LISTED,
    LISTS,
    ONE_CHOICE,
    PATHS,
    RANGED,
    SCALARS,
    SPECS,
    WRONG,
    accepted,
    bounds,
    home,
    refused,
)


@settings(max_examples=300)
@given(st.data())
def test_a_value_of_the_wrong_type_is_refused(data: st.DataObject) -> None:
    # Lists are fewer than numbers and have more ways to be wrong.
    kind = data.draw(st.sampled_from(sorted(WRONG)))
    name = data.draw(st.sampled_from(BY_TYPE[kind]))
    value = data.draw(st.one_of(*(SCALARS[wrong] for wrong in WRONG[kind])))
    error = refused(name, value)
    assert error.name == name
    assert error.value is value


@settings(max_examples=200)
@given(st.data())
def test_a_number_out_of_range_is_refused(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([name for name in RANGED if name != "cut.target"]))
    spec = SPECS[name]
    low, high = bounds(spec)
    numbers = st.integers if spec.type == "int" else st.floats
    above = spec.metadata["above"] is not None
    outside = [] if low is None else [st.just(low) if above else numbers(max_value=low).filter(lambda v: v < low)]  # type: ignore[arg-type]
    outside += [] if low is None else [numbers(max_value=low).filter(lambda v: v <= low if above else v < low)]  # type: ignore[arg-type]
    outside += [] if high is None else [numbers(min_value=high).filter(lambda v: v > high)]  # type: ignore[arg-type]
    assert outside, "every number has a bound, but the target of a cut, which its criterion bounds"
    error = refused(name, data.draw(st.one_of(*outside)))
    assert any(f"{bound:g}" in error.allowed for bound in (low, high) if bound is not None)


@pytest.mark.parametrize("name", [name for name in RANGED if name != "cut.target"])
def test_the_ends_of_a_range_are_part_of_it_unless_it_is_open(name: str) -> None:
    spec, (low, high) = SPECS[name], bounds(SPECS[name])
    assert low is not None
    if spec.metadata["above"] is not None:
        refused(name, low)
        low = math.nextafter(low, math.inf) if spec.type == "float" else low + 1
    kind = int if spec.type == "int" else float
    for end in (low, high):
        if end is not None:
            assert accepted(name, kind(end)) == end


@settings(max_examples=100)
@given(st.sampled_from([name for name in ONE_CHOICE if name != "strategy"]), st.text(max_size=12))
def test_an_unknown_choice_is_refused_with_those_there_are(name: str, value: str) -> None:
    spec = SPECS[name]
    if value in spec.metadata["choices"] or (name in PATHS and ":" in value):
        return
    error = refused(name, value)
    assert all(choice in error.allowed for choice in spec.metadata["choices"])


@pytest.mark.parametrize("name", [name for name in ONE_CHOICE if name not in ("cut.policy", "cut.criterion")])
def test_every_choice_is_allowed(name: str) -> None:
    for choice in SPECS[name].metadata["choices"]:
        assert accepted(name, choice) == choice


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_is_allowed_with_its_target(criterion: str) -> None:
    config = Config.from_flat({"cut.policy": "by_disclosure", "cut.criterion": criterion, "cut.target": 0.5})
    assert config.cut_target() == (criterion, 0.5)


@pytest.mark.parametrize("name", CHOICES)
def test_only_what_can_be_imported_may_be_a_path(name: str) -> None:
    if name in ("model", "client.model", "dataset", "public.dataset"):
        assert accepted(name, "package.module:factory") == "package.module:factory"
    elif name != "strategy":
        refused(name, "package.module:factory")


def test_every_item_of_a_list_is_one_of_the_choices() -> None:
    assert accepted("dataset", ["mnist", "package.module:load"]) == ["mnist", "package.module:load"]
    for value in (["mnist", "mnits"], "mnist+kmnist", "mnist,kmnist", "", [], ["mnist", ""]):
        error = refused("dataset", value)
        assert "celeba" in error.allowed
        assert error.value == value


@pytest.mark.parametrize("kind", LISTED)
def test_lists_in_all_their_forms(kind: str) -> None:
    assert set(LISTED) == {SPECS[name].type for name in LISTS}
    names = {"Numbers": "cut.client_ratios", "Texts": "dataset_path", "TextLists": "data.attribute_groups"}
    name = names.get(kind, "data.size_skew")
    group, spec = SETTINGS[name]
    for given_as, held, as_yaml in LISTED[kind]:
        clients: dict[str, object] = {"num_supernodes": max(1, len(held))} if kind == "Numbers" else {}  # type: ignore[arg-type]
        config = Config.from_flat(home(name) | clients | {name: given_as})
        assert getattr(getattr(config, group), spec.name) == held
        assert config.get(name) == as_yaml
        assert type(config.get(name)) is type(as_yaml)
        assert Config.from_flat(config.to_flower()) == config


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
    config = Config.from_flat(
        {"train.local-epochs": 3, "cut.client-ratios": 0.25, "num-supernodes": 1, "data.cache-path": 7}
    )
    assert type(config.train.local_epochs) is float
    assert config.cut_ratios() == (0.25,)
