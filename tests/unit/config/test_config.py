"""Every setting is held to its declaration, and is refused where the strategy or another setting leaves it unread."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collafuse_flwr.config.config import DEFAULTS, GROUPS, SETTINGS, Config, setting_help, without_unread
from collafuse_flwr.config.strategies import ENDS, MATCHED, STRATEGIES, StrategySpec
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.privacy.settings import CRITERIA
from tests.strategy_kinds import FEDERATED, GANS, MIXED

SPECS = {name: spec for name, (_, spec) in SETTINGS.items()}
BY_TYPE = {
    kind: sorted(name for name, spec in SPECS.items() if spec.type == kind)
    for kind in ("bool", "int", "float", "str", "Numbers", "Texts", "TextLists", "NumberPairs")
}
CHOICES = sorted(name for name, spec in SPECS.items() if spec.metadata["choices"])
#: Those of one choice each.
ONE_CHOICE = [name for name in CHOICES if SPECS[name].type == "str"]
PATHS = sorted(name for name, spec in SPECS.items() if spec.metadata["or_path"])
RANGED = sorted(name for name, spec in SPECS.items() if spec.type in ("int", "float"))
LISTS = sorted(BY_TYPE["Numbers"] + BY_TYPE["Texts"] + BY_TYPE["TextLists"] + BY_TYPE["NumberPairs"])
CONDITIONAL = sorted(name for name, spec in SPECS.items() if spec.metadata["when"])

#: What a setting needs of others at the ends of its range.
NEEDED: dict[str, dict[str, object]] = {
    "diffusion.timesteps": {"cut_ratio": 1.0},
    "sampling.guidance_scale": {"train.cfg_dropout": 0.1},
    "cut.target": {"cut.criterion": "snr_db"},
    "upload.draws_per_image": {"upload.noise": "fixed"},
}
#: A strategy of another package, as `strategy=tests.unit.config.test_config:OWN` names it.
OWN = replace(STRATEGIES["fedavg"], name="own", about="of another package")

SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "none": st.none(),
    "bool": st.booleans(),
    "int": st.integers(),
    "float": st.floats(),
    "str": st.text(max_size=8),
    "list": st.lists(st.integers(), max_size=2),
    "dict": st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
    "bytes": st.binary(max_size=4),
    "word": st.from_regex(r"[a-z]{1,8}", fullmatch=True),
    "commas": st.sampled_from(["0.1,0.2", "0.1;0.2", "0.1,", "0:0.3,2:0.7", "a,b;c"]),
    "broken": st.sampled_from(["[", "[0.1,", "[0.1]]", "[0.1 0.2]", "[}", "[,]"]),
    "texts": st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=3),
    "deep": st.just([[[0.1, 0.9]]]),
    "nones": st.sampled_from([[None], [True], [[None, 0.5]], [[True, 0.5]], "[null]", "[true]", "[[false,0.5]]"]),
    "beyond": st.sampled_from([[math.nan], [0.5, math.inf], "[NaN]", "[0.5,-Infinity]", [10**400], [[0, math.nan]]]),
    "pairless": st.sampled_from([[[0.1]], [[0.1, 0.2, 0.3]], [[]], [0.1, 0.2], "[[0.1]]", "[0.1,0.2]", 0.5]),
}
_NO_LIST = ("none", "bool", "dict", "bytes", "broken", "deep", "nones")
#: What a setting of each type takes no value of: floats take whole numbers, text takes numbers as they were typed.
WRONG = {
    "bool": ("none", "int", "float", "str", "list", "dict", "bytes"),
    "int": ("none", "bool", "float", "str", "list", "dict", "bytes"),
    "float": ("none", "bool", "str", "list", "dict", "bytes"),
    "str": ("none", "bool", "list", "dict", "bytes"),
    "Numbers": (*_NO_LIST, "word", "commas", "texts", "beyond"),
    "Texts": _NO_LIST,
    "TextLists": (*_NO_LIST, "int", "float", "word", "commas"),
    "NumberPairs": (*_NO_LIST, "word", "commas", "texts", "beyond", "pairless"),
}
#: Lists that a setting of each type takes, what they are, and that as YAML has it.
LISTED: dict[str, list[tuple[object, object, object]]] = {
    "Numbers": [(0.25, (0.25,), [0.25]), ([1, 0.5], (1.0, 0.5), [1.0, 0.5]), ("[0.1,0]", (0.1, 0.0), [0.1, 0.0])],
    "Texts": [
        ("a b", ("a b",), "a b"),
        (["a"], ("a",), "a"),
        ("", (), ""),
        ([], (), ""),
        (7, ("7",), "7"),
        (["a", 7], ("a", "7"), ["a", "7"]),
        ('["a,b","c"]', ("a,b", "c"), ["a,b", "c"]),
        ("a,b", ("a,b",), "a,b"),
    ],
    "TextLists": [
        ([], (), []),
        ("[]", (), []),
        ([["a", "b"], ["c"]], (("a", "b"), ("c",)), [["a", "b"], ["c"]]),
        ('[["a"],[]]', (("a",), ()), [["a"], []]),
        (["a", ["b"]], (("a",), ("b",)), [["a"], ["b"]]),
    ],
    "NumberPairs": [
        ([[1, 1]], ((1.0, 1.0),), [[1.0, 1.0]]),
        ("[[1,0.3],[0.5,0.7]]", ((1.0, 0.3), (0.5, 0.7)), [[1.0, 0.3], [0.5, 0.7]]),
        (((1, 2),), ((1.0, 2.0),), [[1.0, 2.0]]),
    ],
}


def home(name: str) -> dict[str, object]:
    """A strategy that reads a setting, and other settings with which it does."""
    if name == "strategy":
        return {}
    group, spec = SETTINGS[name]
    strategy = next(one for one, its in STRATEGIES.items() if its.reads_setting(group, name))
    alone: dict[str, object] = {"strategy": strategy} if strategy != "collafuse" else {}
    for when in spec.metadata["when"][:1]:
        for other, value in when.items():
            alone |= home(other) | {other: value}
    return alone


def bounds(spec: Any) -> tuple[float | None, float | None]:
    meta = spec.metadata
    return (meta["low"] if meta["above"] is None else meta["above"]), meta["high"]


def valid(spec: Any) -> st.SearchStrategy[Any]:
    """Values that a setting takes, apart from the others."""
    low, high = bounds(spec)
    if spec.metadata["choices"]:
        paths = [] if spec.name == "strategy" or not spec.metadata["or_path"] else [st.just("package.module:factory")]
        one = st.one_of(st.sampled_from(spec.metadata["choices"]), *paths)
        return one if spec.type == "str" else one | st.lists(one, min_size=1, max_size=3)
    if spec.type == "int":
        return st.integers(low, None if high is None else int(high))  # type: ignore[arg-type]
    if spec.type == "float":
        return st.floats(
            low, high, exclude_min=spec.metadata["above"] is not None, allow_nan=False, allow_infinity=False
        )
    # A text that begins as JSON's lists do is one; what else may be in a text is Flower's affair.
    text = st.text(max_size=8).filter(lambda text: not text.lstrip().startswith("["))
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "bool": st.booleans(),
        "str": st.text(max_size=8),
        "Texts": text | st.lists(st.text(max_size=8), min_size=2, max_size=3),
        "TextLists": st.lists(st.lists(text, max_size=2), max_size=3),
        "Numbers": st.just([]),
        "NumberPairs": st.just([[1, 0.25], [0.5, 0.75]]),
    }
    return kinds[spec.type]


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Settings that are allowed alone and together."""
    flat = {name: draw(valid(spec)) for name, spec in SPECS.items()}
    flat["num_supernodes"] = clients = draw(st.integers(1, 5))
    flat["federation.min_available_nodes"] = draw(st.integers(0, clients))
    flat["client.start_round"] = draw(st.integers(0, flat["num_rounds"]))
    # A cut between 0 and half a step is refused: it would be a promise that uploads are noised.
    cuts = st.just(0.0) | st.floats(0.51 / flat["diffusion.timesteps"], 1)
    flat["cut_ratio"] = draw(cuts)
    own_cuts = draw(st.just([]) | st.lists(cuts, min_size=clients, max_size=clients))
    flat["cut.client_ratios"] = own_cuts if flat["strategy"] in MIXED else []
    draws = flat["upload.draws_per_image"] = 1 if flat["upload.noise"] == "official" else draw(st.integers(1, 9))
    flat["upload.max_releases"] = draw(st.just(0) | st.integers(draws, 2 * draws))
    flat["cut.criterion"] = draw(st.sampled_from(["none", *CRITERIA])) if flat["strategy"] in MIXED else "none"
    flat["cut.target"] = 0.5
    flat["devices.profiles"] = "paper7"
    if flat["cut.criterion"] != "seconds":
        flat["devices.profiles"] = draw(st.sampled_from(["", "paper7", ["2"] * (clients - 1) + ["1:2:3"]]))
    if "celeba" not in flat["dataset"]:
        flat["data.class_attribute"] = ""
    flat |= {"data.missing_classes": [[1, 0.25], [0, 0.75]]}
    if flat["strategy"] in ("clean_server", "centralized"):
        flat["dp.noise_multiplier"] = 0.0
    if flat["strategy"] in GANS:
        flat |= {"data.conditioning": "classes", "split_gan.client_cuts": "", "split_gan.min_cut": "0000"}
        flat |= {name: min(flat[name], clients) for name in ("clustering.num_clusters", "mdgan.k")}
        if ":" in str(flat["model"]):
            flat["split_gan.factor_tail_gradients"] = False
    if flat["data.conditioning"] == "none" or not flat["train.cfg_dropout"]:
        flat["sampling.guidance_scale"] = 1.0
    return Config.from_flat(without_unread(flat))


def refused(name: str, value: object) -> SettingError:
    """How a setting of this value is refused: in one line that names it, the value and what is allowed."""
    with pytest.raises(SettingError) as caught:
        Config.from_flat(home(name) | {name: value})
    error = caught.value
    assert str(error) == f"`{name}` = {error.value!r} is not allowed: {error.allowed}"
    assert len(str(error).splitlines()) == 1
    assert error.allowed in setting_help()[name]
    return error


def accepted(name: str, value: object) -> Any:
    """What a setting of this value is, as YAML has it."""
    return Config.from_flat(home(name) | NEEDED.get(name, {}) | {name: value}).get(name)


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


@pytest.mark.parametrize("name", [name for name in ONE_CHOICE if name != "cut.criterion"])
def test_every_choice_is_allowed(name: str) -> None:
    for choice in SPECS[name].metadata["choices"]:
        assert accepted(name, choice) == choice


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_is_allowed_with_its_target(criterion: str) -> None:
    devices: dict[str, object] = {"devices.profiles": "paper7"} if criterion == "seconds" else {}
    config = Config.from_flat({"cut.criterion": criterion, "cut.target": 0.5} | devices)
    assert config.cut_target() == (criterion, 0.5)


@pytest.mark.parametrize("name", CHOICES)
def test_only_what_can_be_imported_may_be_a_path(name: str) -> None:
    if name in ("model", "client.model", "dataset"):
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
    assert config.data.cache_path == "7"


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
    told = rf"^`{name.replace('-', '_')}` = 0.5 is not allowed: no such setting; did you mean .*`{nearest}`.*\?"
    with pytest.raises(SettingError, match=told) as caught:
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


def other_than_default(name: str) -> object:
    """A value that a setting may have, but not its default."""
    spec, default = SPECS[name], DEFAULTS[name]
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
        told = f"{DEFAULTS[name]!r}, its default, as `strategy` = {strategy} does not read it"
        assert (caught.value.name, caught.value.allowed) == (name, told)
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
            flat = alone | alternative | {other: choices[0], name: value}
            if choices[0] in CRITERIA:
                flat |= {"cut.target": 0.5}
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
    config = Config.from_flat({"strategy": "tests.unit.config.test_config:OWN"})
    assert config.spec is OWN
    assert config.cut_ratios() == (1.0,) * 10
    with pytest.raises(SettingError, match=r"^`fedprox.proximal_mu` = 3.0 is not allowed: 0.01, its default, as"):
        Config.from_flat({"strategy": "tests.unit.config.test_config:OWN", "fedprox.proximal_mu": 3.0})


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("tests.unit.config.test_config:SPECS", "a StrategySpec, not dict"),
        (
            "tests.unit.config.test_config:NONE",
            "package.module:name of something that can be imported (module 'tests.unit.",
        ),
        ("tests.none:OWN", "package.module:name of something that can be imported (No module named 'tests.none')"),
        (":OWN", "package.module:name of something that can be imported ("),
        ("tests.unit.config.test_config:", "package.module:name of something that can be imported ("),
        ("colafuse", "one of collafuse, pfdm, "),
    ],
)
def test_a_strategy_that_cannot_be_imported_is_refused(path: str, told: str) -> None:
    with pytest.raises(SettingError) as caught:
        Config.from_flat({"strategy": path})
    assert (caught.value.name, caught.value.value) == ("strategy", path)
    assert caught.value.allowed.startswith(told)
    assert "\n" not in str(caught.value)


def test_specs_are_the_strategies_and_read_settings_that_there_are() -> None:
    known = set(SETTINGS) | GROUPS.keys()
    for name, spec in STRATEGIES.items():
        assert isinstance(spec, StrategySpec)
        assert spec.name == name
        assert spec.reads <= known
        whole = {one for one in spec.reads if one in GROUPS}
        assert not {one for one in spec.reads - whole if SETTINGS[one][0] in whole}, "what a group says already"
