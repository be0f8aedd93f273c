"""What a strategy reads, and what it does not read is at its default or refused."""

from __future__ import annotations

import pytest

from collafuse_flwr.config.config import DEFAULTS, GROUPS, SETTINGS, Config, setting_help, without_unread
from collafuse_flwr.config.strategies import ENDS, MATCHED, STRATEGIES, StrategySpec
from collafuse_flwr.core.errors import SettingError
from tests.setting_values import (
    CONDITIONAL,
    OWN,
    SPECS,
    home,
)
from tests.strategy_kinds import FEDERATED, GANS

#: What cuts that a client may move between need.
MOVES: dict[str, object] = {"cut.choices": [0.25, 0.5], "cut.exploration_rounds": 8}


def other_than_default(name: str) -> object:
    """A value that a setting may have, but not its default."""
    spec, default = SPECS[name], DEFAULTS[name]
    if name in MOVES:
        return MOVES[name]
    if spec.metadata["choices"]:
        return next(choice for choice in spec.metadata["choices"] if choice != default)
    texts: object = {"split_gan.min_cut": "0001", "split_gan.client_cuts": "0001"}.get(name, "text")
    values: dict[str, object] = {
        "bool": not default,
        "int": default + 1 if spec.type == "int" else 0,
        "float": default * 0.5 or 0.25 if spec.type == "float" else 0,
        "str": texts,
        "Texts": texts,
        "Numbers": [0.25] * 10,
        "TextLists": [["a"]],
        "NumberPairs": [[0, 0.5], [1, 0.5]] if name == "data.missing_classes" else [[0.5, 1]],
    }
    return values[str(spec.type)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_a_strategy_does_not_read_must_be_at_its_default(strategy: str) -> None:
    spec = STRATEGIES[strategy]
    unread = [name for name, (group, _) in SETTINGS.items() if not spec.reads_setting(group, name)]
    assert unread, "no strategy reads everything"
    for name in unread:
        value = other_than_default(name)
        flat: dict[str, object] = {"strategy": strategy, name: value}
        with pytest.raises(SettingError) as caught:
            Config.from_flat(flat)
        allowed = f"{DEFAULTS[name]!r}, its default, as `strategy` = {strategy} does not read it"
        assert (caught.value.name, caught.value.allowed) == (name, allowed)
        assert "\n" not in str(caught.value)
        assert Config.from_flat({"strategy": strategy, name: DEFAULTS[name]}).run.strategy == strategy
        # A recipe may set it, and it is dropped.
        assert without_unread(flat) == {"strategy": strategy}
        # Whoever gave it learns that it has no effect.
        assert without_unread(flat, {name}) == flat


@pytest.mark.parametrize("name", CONDITIONAL)
def test_what_another_setting_leaves_unread_must_be_at_its_default(name: str) -> None:
    alone, value = home(name), other_than_default(name)
    conditions = SPECS[name].metadata["when"]
    assert Config.from_flat(alone | {name: value}).get(name) != DEFAULTS[name]
    for alternative in conditions:
        for other in alternative:
            choices = [
                choice
                for choice in SPECS[other].metadata["choices"]
                if choice not in {one.get(other) for one in conditions}
            ]
            # What another alternative needs would be refused first.
            elsewhere = {own for one in conditions for own in one} - alternative.keys()
            here = {own: given for own, given in alone.items() if own not in elsewhere}
            flat = here | alternative | {other: choices[0], name: value}
            with pytest.raises(SettingError) as caught:
                Config.from_flat(flat)
            assert caught.value.name == name
            assert caught.value.allowed.startswith(f"{DEFAULTS[name]!r}, its default, unless `")
            assert f"`{other}` is {alternative[other]}" in caught.value.allowed
            # What depends on the other as well goes with it.
            assert without_unread(flat).keys() <= flat.keys() - {name}
            assert without_unread(flat, flat) == flat


def test_what_depends_on_a_dropped_setting_is_dropped_with_it() -> None:
    """FedGAN has no planner, so nothing reads the population of a genetic one."""
    recipe = {
        "strategy": "fedgan",
        "cut-planner.algorithm": "genetic",
        "cut-planner.population": 20,
        "gan.width": 8,
        "cut_ratio": 0.5,
    }
    assert without_unread(recipe) == {"strategy": "fedgan", "gan.width": 8}
    minimal = {"train.loss_weighting": "min_snr", "train.min_snr_gamma": 3.0}
    assert without_unread(minimal | {"strategy": "mdgan"}) == {"strategy": "mdgan"}
    assert without_unread(minimal) == minimal


def test_what_is_wrong_is_not_dropped_but_refused() -> None:
    with pytest.raises(SettingError, match=r"^`gan.width` = 'wide' is not allowed: a whole number"):
        without_unread({"strategy": "collafuse", "gan.width": "wide"})
    with pytest.raises(SettingError, match="no such setting"):
        without_unread({"gan.height": 3})


@pytest.mark.parametrize("match", MATCHED)
@pytest.mark.parametrize("strategy", ["fedavg", "udec", "local", "centralized", "mdgan", "pfdm"])
def test_what_effort_is_matched_to_is_read_without_a_cut(strategy: str, match: str) -> None:
    """Weights can be exchanged as seldom as CollaFuse's traffic allows; who has none to exchange can do less."""
    can = strategy in FEDERATED or (strategy in ENDS and match == "client_flops")
    for name in MATCHED[match]:
        own = STRATEGIES[strategy].reads_setting(SETTINGS[name][0], name)
        flat = {"strategy": strategy, name: other_than_default(name)}
        matched = flat | ({} if strategy in GANS else {"train.match": match})
        for one, reads in ((flat, own), (matched, own or can)):
            if reads:
                assert Config.from_flat(one).get(name) == one[name]
                assert without_unread(one) == one
            else:
                with pytest.raises(SettingError, match=f"^`{name}` = .* not read it$"):
                    Config.from_flat(one)


def test_help_is_about_what_a_strategy_reads() -> None:
    for strategy, spec in STRATEGIES.items():
        shown = setting_help(Config.from_flat({"strategy": strategy})).keys()
        assert {"strategy", "seed", "dataset"} <= shown
        assert shown == {name for name, (group, _) in SETTINGS.items() if spec.reads_setting(group, name)}
    assert "fedprox.proximal_mu" not in setting_help(Config())
    matched = Config.from_flat({"strategy": "fedavg", "train.match": "traffic"})
    only = setting_help(matched).keys() - setting_help(Config.from_flat({"strategy": "fedavg"})).keys()
    assert only == set(MATCHED["traffic"])


def test_a_strategy_may_be_of_another_package() -> None:
    config = Config.from_flat({"strategy": "tests.setting_values:OWN"})
    assert config.spec is OWN
    assert config.cut_ratios() == (1.0,) * 10
    with pytest.raises(SettingError, match=r"^`fedprox.proximal_mu` = 3.0 is not allowed: 0.01, its default, as"):
        Config.from_flat({"strategy": "tests.setting_values:OWN", "fedprox.proximal_mu": 3.0})


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("tests.setting_values:SPECS", "a StrategySpec, not dict"),
        (
            "tests.setting_values:NONE",
            "package.module:name of something that can be imported (module 'tests.",
        ),
        ("tests.none:OWN", "package.module:name of something that can be imported (No module named 'tests.none')"),
        (":OWN", "package.module:name of something that can be imported ("),
        ("tests.setting_values:", "package.module:name of something that can be imported ("),
        ("colafuse", "one of collafuse, pfdm, "),
    ],
)
def test_a_strategy_that_cannot_be_imported_is_refused(path: str, allowed: str) -> None:
    with pytest.raises(SettingError) as caught:
        Config.from_flat({"strategy": path})
    assert (caught.value.name, caught.value.value) == ("strategy", path)
    assert caught.value.allowed.startswith(allowed)
    assert "\n" not in str(caught.value)


def test_specs_are_the_strategies_and_read_settings_that_there_are() -> None:
    names = set(SETTINGS) | GROUPS.keys()
    for name, spec in STRATEGIES.items():
        assert isinstance(spec, StrategySpec)
        assert spec.name == name
        assert spec.reads <= names
        whole = {one for one in spec.reads if one in GROUPS}
        assert not {one for one in spec.reads - whole if SETTINGS[one][0] in whole}, "what a group says already"
