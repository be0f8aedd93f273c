"""The cells of a sweep: which settings mean the same run, and what a cell's folder is called."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from collafuse_flwr.config.config import DEFAULTS, Config
from collafuse_flwr.config.strategies import ENDS
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.codec import pinned
from collafuse_flwr.runs.run_dir import RESUMABLE

#: Settings that every name has, so that they are not repeated among those that differ.
IN_EVERY_NAME = ("strategy", "dataset", "cut_ratio", "seed")
#: Names stay below what file systems allow (255 bytes) and what fits on a line.
MAX_NAME = 100


def canonical(config: Config) -> dict[str, Any]:
    """What a run computes: equal for settings that give the same bits, however, wherever and under what name.

    Settings that the strategy does not read are at their default already. Only rules that are certain: a rule that is
    missing costs a run, one that is wrong passes off one run as another. Lists become tuples.
    """
    strategy = config.run.strategy
    if strategy in ENDS and config.train.match == "image_updates":
        run, cut = replace(config.run, strategy="collafuse"), replace(config.cut, cut_ratio=ENDS[strategy])
        config = replace(config, run=run, cut=cut)
    flat = {name: hashable(value) for name, value in config.to_flat().items() if name not in RESUMABLE}
    with suppress(SettingError):
        # By its content: another one in the same folder makes another run. Where there is none, the run says so.
        flat["codec"] = pinned(config.data.codec)
    unused = {name for name in flat if config.unread(name)}
    if ratios := config.cut.client_ratios:
        equal = len(set(ratios)) == 1
        flat |= {"cut_ratio": ratios[0], "cut.client_ratios": ()} if equal else {"cut_ratio": None}
    if config.cut.policy != "fixed":
        flat["cut_ratio"] = None
    return {name: value for name, value in flat.items() if name not in unused | _without_effect(config, flat)}


def hashable(value: Any) -> Any:
    """A setting's value with tuples for lists."""
    return tuple(map(hashable, value)) if isinstance(value, list) else value


def _without_effect(config: Config, flat: dict[str, Any]) -> set[str]:
    """Settings that are read and change nothing: of labels where there are none, uploads at c = 1, devices, stacks."""
    unused = {"upload.share_labels", "train.cfg_dropout"} if flat["data.conditioning"] == "none" else set()
    unused |= set() if flat["dp.noise_multiplier"] else {"dp.max_grad_norm"}
    # Not every runner reads it.
    unused |= {"resources.stack_clients"} if flat["resources.stack_clients"] == 1 else set()
    if flat["strategy"] == "collafuse":
        unconditional = set() if config.shares_labels() else {"sampling.guidance_scale", "train.cfg_dropout"}
        uploads = {f"upload.{name}" for name in ("noise", "draws_per_image", "max_releases", "dtype")}
        unused |= {1: uploads, 0: unconditional}.get(flat["cut_ratio"], set())
    if not config.spec.is_gan:
        kept = {
            "by_device": {"devices.profiles"},
            "adaptive": {"devices.profiles", "devices.message_seconds"},
        }.get(config.cut.policy, set())
        unused |= {name for name in flat if name.startswith("devices.")} - kept
    return unused


def fingerprint(config: Config) -> str:
    """Eight hexadecimal digits, different for runs that compute something different."""
    text = json.dumps(canonical(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_name(config: Config, swept: Collection[str] = ()) -> str:
    """A folder's name: strategy, dataset, cut, those of the swept settings that are not default, seed, fingerprint."""
    settings, flat, default = canonical(config), config.to_flat(), DEFAULTS
    parts = [config.run.strategy, config.data.name]
    if config.run.strategy not in ENDS and settings.get("cut_ratio") is not None:
        parts.append(f"c{settings['cut_ratio']:g}")
    shown = [name for name in swept if name in settings and name not in IN_EVERY_NAME]
    parts += [f"{name}-{flat[name]}" for name in shown if flat[name] != default[name]]
    plain = re.sub(r"[^\w.+-]+", "_", "-".join(parts))
    return f"{plain[:MAX_NAME]}-s{config.run.seed}-{fingerprint(config)}"


def overrides(config: Config) -> list[str]:
    """All settings as arguments of `python -m simulations.run`, quoted as Hydra's grammar wants it."""
    return [override(name, value) for name, value in config.to_flat().items()]


def override(name: str, value: object) -> str:
    """One setting as an argument for Hydra."""
    return f"{name}={_quoted(value)}"


def _quoted(value: object) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_quoted, value))}]"
    if isinstance(value, str):
        return str(QuotedString(value, Quote.single).with_quotes())
    return str(value) if isinstance(value, float) else json.dumps(value)


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep; `duplicates` are the other settings that mean it, by what differs."""

    number: int
    name: str
    config: Config
    duplicates: tuple[str, ...] = ()


def distinct(configs: list[Config]) -> list[SweepRun]:
    """The runs that some settings mean, each once, in the order of their first occurrence."""
    flats = [config.to_flat() for config in configs]
    swept = [name for name in flats[0] if any(flat[name] != flats[0][name] for flat in flats)]
    same: dict[str, list[int]] = {}
    for index, config in enumerate(configs):
        same.setdefault(fingerprint(config), []).append(index)
    return [
        SweepRun(
            number, run_name(configs[first], swept), configs[first], tuple(_label(flats[i], swept) for i in duplicates)
        )
        for number, (first, *duplicates) in enumerate(same.values(), 1)
    ]


def _label(flat: dict[str, Any], swept: list[str]) -> str:
    return " ".join(f"{name}={flat[name]}" for name in swept)
