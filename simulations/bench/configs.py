"""What the overhead is measured on: the settings of each case, from its set, its runner and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.runtime import available_cores

#: The least share of the plain loop's speed that each runner should reach.
TARGETS = {"local": 0.9, "ray": 0.7}
#: The plain loop knows clients that start by themselves and upload once; nothing is sampled.
FIXED: dict[str, Any] = {"client.init_from": "random", "upload.noise": "fixed", "evaluation.every": 0, "resume": False}
#: What each case has of its own, and what to give instead.
INSTEAD = {"runner": "runners", "num_rounds": "rounds", "dataset": "sets"}
#: Rounds of some seconds on two cores.
SETS: dict[str, dict[str, Any]] = {
    "digits": {"dataset": "digits", "train.local_epochs": 2.0},
    "images32": {"dataset": "npz", "data.max_images": 1000, "train.local_epochs": 0.5, "server.batch_size": 32},
}
DEFAULTS: dict[str, Any] = {
    "sets": ",".join(SETS),
    "runners": ",".join(TARGETS),
    "rounds": 4,
    "dataset_path": "",
    "output": "",
}


def configure(name: str, runner: str, settings: dict[str, Any], folder: Path) -> Config:
    """The settings of one case: its set's, then what was given; one round more is planned, which would evaluate.

    Raises:
        SettingError: a setting is unknown, not allowed, or fixed by the benchmark.
    """
    run = {key: value for key, value in settings.items() if key not in DEFAULTS}
    for key, value in FIXED.items():
        if run.get(key, value) != value:
            raise SettingError(key, run[key], f"{value} in this benchmark")
    for key in INSTEAD.keys() & run.keys():
        raise SettingError(key, run[key], f"left out in this benchmark, which has `{INSTEAD[key]}`")
    if name not in SETS:
        raise SettingError("sets", name, f"one or more of {', '.join(SETS)}")
    if runner not in TARGETS:
        raise SettingError("runners", runner, f"one or more of {', '.join(TARGETS)}")
    if not isinstance(settings["rounds"], int) or settings["rounds"] < 1:
        raise SettingError("rounds", settings["rounds"], "a whole number >= 1")
    case: dict[str, Any] = {
        "runner": runner,
        "num_rounds": settings["rounds"] + 2,
        "output": str(folder / f"{name}-{runner}"),
    }
    if runner == "local":
        case["resources.client_threads"] = available_cores()
    if SETS[name]["dataset"] == "npz":
        path, own = settings["dataset_path"], folder / "images32.npz"
        count = SETS[name]["data.max_images"]
        case["dataset_path"] = str(Path(path).absolute()) if path else synthetic_images(own, count)
    return Config.from_flat({"quiet": True} | FIXED | SETS[name] | case | run)


def synthetic_images(path: Path, count: int, size: int = 32) -> str:
    """Write as many RGB images of 10 classes as noise around a colour: speed does not depend on content."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 10
    colours = generator.integers(64, 192, (10, 1, 1, 3))
    images = (colours[labels] + generator.integers(-64, 64, (count, size, size, 3))).astype(np.uint8)
    np.savez(path, images=images, labels=labels)
    return str(path)
