"""Finished runs that were never run, with numbers that follow a formula."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from PIL import Image

from collafuse_flwr.config.config import Config, without_unread
from collafuse_flwr.config.strategies import ENDS
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.runs.run_dir import write_config
from simulations.report.load_runs import Run
from simulations.sweep.grid import run_name
from tests.small_runs import dotted
from tests.strategy_kinds import FEDERATED

CLIENTS = 4


def settings(strategy: str = "collafuse", **given: Any) -> Config:
    """Settings without those that the strategy does not read; `gan__width=2` stands for `gan.width=2`."""
    return Config.from_flat(without_unread({"num_supernodes": CLIENTS, "strategy": strategy} | dotted(given)))


def fake(root: Path, strategy: str = "collafuse", *, fd: float | None = None, **given: Any) -> Run:
    """A run at some settings, in a folder of its own; all its numbers follow from them, or from a given pooled FD."""
    config = settings(strategy, **given)
    cut = ENDS.get(strategy, 1.0 if strategy in FEDERATED else config.cut.cut_ratio)
    seed, weights = config.run.seed, strategy in FEDERATED
    fd = fd if fd is not None else 1.5 + (4 * cut**2 if not weights else 2.2) + 0.1 * seed
    summary = {
        "pooled": _pooled(cut, weights, fd),
        "clients": [_client(number, cut, weights, fd + number + 0.1 * seed) for number in range(CLIENTS)],
        "server": {"flops": 9e12 * (1 - cut), "seconds": 60.0, "image_updates": int(1e5 * (1 - cut)), "pool": 1000},
        "failed": 0,
        "rejected": 0,
        "lost": [],
    }
    folder = root / run_name(config, ["upload"])
    write_config(config, folder)
    write_json(folder / "summary.json", summary)
    (folder / "pictures").mkdir()
    Image.new("L", (502, 502), int(255 * cut)).save(folder / "pictures" / "samples.png")
    # As whoever reads the file sees it: without infinities.
    return Run(folder, config, json.loads((folder / "summary.json").read_text()))


def _disclosed(cut: float, weights: bool) -> dict[str, Any]:
    if weights or cut == 1:
        return {"snr_db": -math.inf, "bits": 0.0, "reid": None}
    if cut == 0:
        return {"snr_db": math.inf, "bits": math.inf, "reid": 1.0}
    return {"snr_db": 20 - 40 * cut, "bits": 40 * (1 - cut), "reid": 1 - cut}


def _pooled(cut: float, weights: bool, fd: float) -> dict[str, Any]:
    real = {"fd_real": 1.5, "tstr_real": 0.994, "reid_chance": 0.001}
    return real | _disclosed(cut, weights) | _costs(cut, weights, CLIENTS) | {"fd": fd, "tstr": 1 - fd / 50}


def _client(number: int, cut: float, weights: bool, fd: float) -> dict[str, Any]:
    own = {"client": number, "cut_step": round(100 * cut), "num_images": 250, "fd": fd, "tstr": 1 - fd / 40}
    return own | _disclosed(cut, weights) | _costs(cut, weights, 1)


def _costs(cut: float, weights: bool, times: int) -> dict[str, Any]:
    return {
        "bytes_up": times * (25_000_000 if weights else 16_000 * (cut < 1)),
        "bytes_down": times * (25_000_000 if weights else 2_600_000),
        "client_flops": times * 9e11 * cut,
        "client_seconds": times * 20.0 * cut,
        "image_updates": times * int(25_000 * cut),
    }


def attacked(run: Run) -> Run:
    """The run with what attacks on it achieved: of two clients, less of the first, of which nothing was rebuilt."""
    cut = run.config.cut.cut_ratio
    chances = {"bits_chance": 0.0, "dp_epsilon_chance": 0.0, "reid_chance": 0.01, "psnr_chance": 11.0}
    bounds = {"snr_db": 20 - 40 * cut, "bits": 40 * (1 - cut), "bits_denoised": 30 * (1 - cut), "dp_epsilon": None}
    rows = [
        bounds | chances | {"client": 0, "reid": (1 - cut) / 2, "membership_denoiser_loss_auc": None},
        bounds | chances | {"client": 1, "reid": 1 - cut, "psnr_wiener": 20 - 10 * cut + run.config.run.seed},
    ]
    write_json(run.folder / "attacks" / "attacks.json", {"clients": rows})
    return run
