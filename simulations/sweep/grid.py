"""The cells of a sweep: which settings mean the same run, and what a cell's folder is called."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from collafuse_flwr.config.config import Config
from collafuse_flwr.config.sections import ENDS, FEDERATED, GANS, DeviceConfig, GanConfig
from collafuse_flwr.runs.run_dir import RESUMABLE

#: Settings of what crosses the cut in images; without uploads they change nothing.
UPLOADS = ("upload", "copies_per_image", "max_releases", "upload_dtype")
#: Settings that matter only with one value of another; `deals` is `partition`, or how it deals each data set.
ONLY_WITH = {
    "dirichlet_alpha": ("deals", "dirichlet"),
    "classes_per_client": ("deals", "by_class"),
    "dropped_classes": ("deals", "drop_classes"),
    "size_shares": ("deals", "drop_classes"),
    "attribute_groups": ("partition", "by_attribute"),
    "within_domain": ("partition", "by_domain"),
    "min_snr_gamma": ("loss_weighting", "min_snr"),
    "proximal_mu": ("strategy", "fedprox"),
    "generated_batches": ("strategy", "mdgan"),
    "discriminator_steps": ("strategy", "mdgan"),
}
#: Settings of networks that denoise, of their cut, training and sampling; in GANs they change nothing.
DIFFUSION = (
    *("model", "client_model", "schedule", "prediction", "loss_weighting", "min_snr_gamma", "label_dropout", "flip"),
    *("cut_ratio", "client_cut_ratios", *UPLOADS, "share_labels", "effort", "client_init", "client_init_round"),
    *("budget", "server_effort", "batch_size", "client_batch_size", "learning_rate", "lr_schedule", "ema_decay"),
    *("sampler", "sampling_steps", "server_steps", "client_steps", "guidance", "proximal_mu"),
)
#: What a name always tells, so that it is not told again among the settings that differ.
IN_EVERY_NAME = ("strategy", "dataset", "cut_ratio", "seed")
#: Names stay below what file systems allow (255 bytes) and what fits on a line.
MAX_NAME = 100


def canonical(config: Config) -> dict[str, Any]:
    """What a run computes: equal for settings that give the same bits, however, wherever and under what name.

    Only rules that are certain: a rule that is missing costs a run, one that is wrong passes off one run as another.
    """
    flat: dict[str, Any] = {name: value for name, value in config.to_flat().items() if name not in RESUMABLE}
    by_domain = flat["partition"] == "by_domain"
    values = flat | {"deals": flat["within_domain"] if by_domain else flat["partition"]}
    for name, (other, value) in ONLY_WITH.items():
        if values[other] != value:
            flat.pop(name, None)
    _without_a_cut(flat)
    if flat["strategy"] in GANS:
        return {name: value for name, value in flat.items() if name not in DIFFUSION}
    flat = {name: value for name, value in flat.items() if name not in {spec.name for spec in fields(GanConfig)}}
    if config.cut_target() is not None:
        flat["cut_ratio"] = None
    if flat.get("client_cut_ratios"):
        ratios = [float(ratio) for ratio in flat["client_cut_ratios"].split(",")]
        equal = len(set(ratios)) == 1
        flat |= {"cut_ratio": ratios[0], "client_cut_ratios": ""} if equal else {"cut_ratio": None}
    return {name: value for name, value in flat.items() if name not in _unused(flat)}


def _without_a_cut(flat: dict[str, Any]) -> None:
    """Strategies at an end of the chain are CollaFuse with the cut there, and those that average have no uploads.

    Not with another budget: then these strategies are given what CollaFuse would use at the cut ratio.
    """
    if flat.get("budget", "image_updates") != "image_updates":
        return
    if flat["strategy"] in ENDS:
        flat |= {"strategy": "collafuse", "cut_ratio": ENDS[flat["strategy"]], "client_cut_ratios": ""}
    elif flat["strategy"] in FEDERATED:
        for name in ("cut_ratio", "client_cut_ratios", *UPLOADS):
            del flat[name]


def _unused(flat: dict[str, Any]) -> set[str]:
    """Settings that change nothing: of labels where no network is told any, uploads at c = 1, devices."""
    unused = {"share_labels", "label_dropout"} if flat["condition"] == "none" else set()
    unused |= set() if flat["dp_noise_multiplier"] else {"dp_max_grad_norm"}
    if flat["strategy"] == "collafuse":
        told = flat["share_labels"] and flat["condition"] != "none"
        untold = set() if told else {"guidance", "label_dropout"}
        unused |= {1: set(UPLOADS), 0: untold}.get(flat["cut_ratio"], set())
    if flat["strategy"] not in GANS:
        unused |= {setting.name for setting in fields(DeviceConfig)} - ({"devices"} if flat["cut_seconds"] else set())
    return unused


def fingerprint(config: Config) -> str:
    """Eight hexadecimal digits that tell runs apart that compute something else."""
    text = json.dumps(canonical(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_name(config: Config, swept: Collection[str] = ()) -> str:
    """A folder's name: strategy, dataset, cut, those of the swept settings that are not default, seed, fingerprint."""
    known, flat, default = canonical(config), config.to_flat(), Config().to_flat()
    parts = [config.run.strategy, config.data.dataset]
    if config.run.strategy not in ENDS and known.get("cut_ratio") is not None:
        parts.append(f"c{known['cut_ratio']:g}")
    told = [name for name in swept if name in known and name not in IN_EVERY_NAME]
    parts += [f"{name}-{flat[name]}" for name in told if flat[name] != default[name]]
    plain = re.sub(r"[^\w.+-]+", "_", "-".join(parts))
    return f"{plain[:MAX_NAME]}-s{config.run.seed}-{fingerprint(config)}"


def overrides(config: Config) -> list[str]:
    """All settings as arguments of `python -m simulations.run`, quoted as Hydra's grammar wants it."""
    return [override(name, value) for name, value in config.to_flat().items()]


def override(name: str, value: bool | float | str) -> str:
    """One setting as an argument for Hydra."""
    # `model=package.module:factory` goes past Hydra, as it is.
    if isinstance(value, str) and not (name == "model" and ":" in value):
        return f"{name}={QuotedString(value, Quote.single).with_quotes()}"
    return f"{name}={str(value).lower() if isinstance(value, bool) else value}"


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
    swept = [name for name in flats[0] if len({flat[name] for flat in flats}) > 1]
    same: dict[str, list[int]] = {}
    for index, config in enumerate(configs):
        same.setdefault(fingerprint(config), []).append(index)
    return [
        SweepRun(
            number, run_name(configs[first], swept), configs[first], tuple(_told(flats[i], swept) for i in duplicates)
        )
        for number, (first, *duplicates) in enumerate(same.values(), 1)
    ]


def _told(flat: dict[str, Any], swept: list[str]) -> str:
    return " ".join(f"{name}={flat[name]}" for name in swept)
