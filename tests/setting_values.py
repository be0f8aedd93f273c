"""Values of all settings, allowed and not, for tests of the configuration."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st

from collafuse_flwr.config.config import SETTINGS, Config, setting_help, without_unread
from collafuse_flwr.config.strategies import STRATEGIES
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.fields import plain
from collafuse_flwr.data.settings import READ_BY
from collafuse_flwr.privacy.settings import CRITERIA, CUT_POLICIES
from tests.strategy_kinds import GANS, MIXED

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
    "upload.draws_per_image": {"upload.noise": "fixed"},
    "deconvolution.sampling_steps": {"deconvolution.iterations": 1},
    "averaging.noise": {"averaging.clip_norm": 1.0},
    "averaging.noise_multiplier": {"averaging.clip_norm": 1.0},
    "data.split": {"dataset": "imagefolder"},
    "data.slice_axis": {"dataset": "nifti"},
}
#: A strategy of another package, as `strategy=tests.setting_values:OWN` names it.
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
            alone |= home(other) | NEEDED.get(other, {}) | {other: value}
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
    cut_policies = [name for name in CUT_POLICIES if name != "adaptive" or flat["strategy"] != "hybrid"]
    policy = flat["cut.policy"] = draw(st.sampled_from(cut_policies)) if flat["strategy"] in MIXED else "fixed"
    flat["cut.criterion"] = draw(st.sampled_from([*CRITERIA, "none"][: len(CRITERIA) + (policy == "adaptive")]))
    flat["cut.target"] = 0.5
    if policy == "adaptive":
        flat |= {"cut.choices": [0.5, 0.25], "diffusion.timesteps": 4 * draw(st.integers(1, 250)), "cut_ratio": 0.25}
        flat |= {"cut.warmup_rounds": 2, "cut.exploration_rounds": draw(st.sampled_from([0, 2, 4])), "num_rounds": 9}
        flat |= {"client.start_round": 0, "upload.noise": "fixed", "cut.client_ratios": []}
    flat["devices.profiles"] = "paper7"
    if policy != "by_device":
        flat["devices.profiles"] = draw(st.sampled_from(["", "paper7", ["2"] * (clients - 1) + ["1:2:3"]]))
    flat |= _starts(draw, flat)
    named = [flat["dataset"]] if isinstance(flat["dataset"], str) else flat["dataset"]
    for name, readers in READ_BY.items():
        if not set(named) & set(readers) and not any(":" in one for one in named):
            flat[name] = plain(SPECS[name].default)
    flat["data.background"] = draw(st.sampled_from(["black", "white", "#102030"]))
    flat["data.window"] = draw(st.sampled_from([[], [0, 4095.5]]))
    flat |= {"data.missing_classes": [[1, 0.25], [0, 0.75]]}
    # No noise, or enough to be seen beside float32's rounding.
    flat["dp.noise_multiplier"] = draw(st.just(0.0) | st.floats(0.01, 1e4))
    if flat["strategy"] in ("clean_server", "centralized"):
        flat["dp.noise_multiplier"] = 0.0
    flat |= _averaging(draw, flat)
    if flat["strategy"] in GANS:
        flat |= {"data.conditioning": "classes", "split_gan.client_cuts": "", "split_gan.min_cut": "0000"}
        flat |= {"split_gan.replan_rounds": 0, "devices.slowdowns": ""}
        flat |= {name: min(flat[name], clients) for name in ("clustering.num_clusters", "mdgan.k")}
        if ":" in str(flat["model"]) or flat["split_gan.condition_at"] == "tail":
            flat["split_gan.factor_tail_gradients"] = False
    # A client alone can be compared only with one that trains a denoiser with others.
    if flat["strategy"] in {*GANS, "local", "centralized"} or not max(flat["cut.client_ratios"] or [flat["cut_ratio"]]):
        flat["baseline"] = "none"
    # What generates takes everything else from the run that has trained.
    flat["task"] = "train"
    if flat["data.conditioning"] == "none" or not flat["train.cfg_dropout"]:
        flat["sampling.guidance_scale"] = 1.0
    return Config.from_flat(without_unread(flat))


def _starts(draw: st.DrawFn, flat: dict[str, Any]) -> dict[str, Any]:
    """What networks start from, learn beside uploads, and hand over, where the other settings allow it."""
    # A hand-over is above every cut.
    above = st.just(0.0) if flat["upload.noise"] == "official" else st.sampled_from([0.0, 1.0])
    own: dict[str, Any] = {"sampling.handover_ratio": draw(above)}
    if flat["upload.noise"] != "fixed" or flat["upload.draws_per_image"] > 1:
        own["server.holdout_fraction"] = 0.0
    if flat["upload.noise"] == "official":
        own["sampling.handover"] = "fixed"
    cuts = flat["cut.client_ratios"] or [flat["cut_ratio"]]
    denoises = (
        flat["cut.policy"] == "fixed" and all(c * flat["diffusion.timesteps"] > 1 for c in cuts) and max(cuts) < 0.5
    )
    denoises &= flat["upload.noise"] != "official" and not own.get(
        "server.holdout_fraction", flat["server.holdout_fraction"]
    )
    own["deconvolution.iterations"] = draw(st.integers(0, flat["num_rounds"] - 1)) if denoises else 0
    if not own["deconvolution.iterations"]:
        own["deconvolution.sampling_steps"] = 0
    if flat["codec"]:
        own["train.random_hflip"] = False
    if flat["public.dataset"] == "none":
        own |= {"public.dataset_path": "", "public.max_images": 0}
    if flat["client.model"] not in ("same", flat["model"]):
        own["start_from"] = ""
    if not own.get("start_from", flat["start_from"]):
        own["client.trained_parts"] = "all"
    return own


def _averaging(draw: st.DrawFn, flat: dict[str, Any]) -> dict[str, Any]:
    """Updates have a norm if they are noised, a round's weights if they have a norm; DP-SGD counts no fine-tuning."""
    own: dict[str, Any] = {"averaging.clip_norm": draw(st.just(0.0) | st.floats(1e-6, 1e6))}
    if not own["averaging.clip_norm"] or flat["client.trained_parts"] != "all":
        own["averaging.noise"] = "none"
    if own["averaging.clip_norm"] and flat["train.match"] == "traffic":
        own["train.match"] = "image_updates"
    if flat["dp.noise_multiplier"]:
        own["averaging.finetune_epochs"] = 0.0
    return own


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
