"""What has left a client in all: `python -m simulations.disclosed state=FOLDER`.

Reads the ledger in the folder of a client's state (`state-path`, or clients/N of a simulation), shows a table of what
left it in which run, and leaves the same as disclosed.json and disclosed.png in `output` (empty: state=FOLDER itself).
`delta=1e-5` is that of epsilon.
"""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.privacy.leakage_bounds import most_named
from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.runs.figures import draw_disclosure
from collafuse_flwr.runs.run_layout import ClientLayout
from simulations.cli import command

#: What a run's row counts beside uploads, as one and as several.
COUNTED = {
    "weights": ("weight", "weights"),
    "activations": ("round of activations", "rounds of activations"),
    "numbers": ("number", "numbers"),
    "dp_steps": ("step of DP-SGD", "steps of DP-SGD"),
    "refusal": ("refused request", "refused requests"),
}
DEFAULTS = {"state": "", "output": "", "delta": "1e-5"}


def disclosed(ledger: Ledger, delta: float) -> dict[str, Any]:
    """What left in each run, and what all of it is worth for the image of which most left.

    `reid` is a bound on the share of images that anyone could name among all that were released, by Fano's inequality
    from the most bits that were measured, at a release or an evaluation.
    """
    runs: dict[str, dict[str, Any]] = defaultdict(lambda: defaultdict(int))
    bits: list[float] = []
    for entry in ledger.entries:
        row, kind = runs[entry["run"]], entry["kind"]
        row["first"] = row["first"] or entry["time"]
        row["last"] = entry["time"]
        if kind == "release":
            row["uploads"] += 1
            row["snr_db"] = max(row.get("snr_db", -math.inf), _decibels(entry["snr"], entry["enlargement"]))
            row["labels"] = bool(row["labels"] or entry.get("labels"))
        elif kind == "dp_sgd":
            row["dp_steps"] += entry["steps"]
        elif kind in ("weights", "numbers"):
            row[kind] += entry["values"] if kind == "weights" else len(entry["values"])
        elif kind in ("activations", "refusal"):
            row[kind] += 1
        bits += [entry["bits"]] if kind == "measured" and entry["bits"] is not None else []
    exposure, images = ledger.exposure(), {key for release in ledger.releases for key in release.keys}
    whole = {
        "images": len(images),
        "releases": exposure.releases,
        "snr_db": _decibels(exposure.snr),
        "bits": max(bits, default=None),
        "reid": most_named(max(bits), len(images)) if bits and images else None,
        "mu": exposure.mu,
        "dp_steps": exposure.dp_steps,
        "epsilon": exposure.epsilon(delta),
        "delta": delta,
    }
    return {"whole": whole, "runs": {name: dict(row) for name, row in runs.items()}}


def _decibels(snr: float | None, times: float = 1.0) -> float:
    """A multiple of a ratio in dB; JSON has no infinity, so None is that of clean images."""
    if snr is None:
        return math.inf
    return 10 * math.log10(snr * times) if snr else -math.inf


def table(disclosure: dict[str, Any]) -> Table:
    """A row for each run, which says what there is to say."""
    shown = Table(title="What has left this client, for whoever ran the server")
    shown.add_column("run", overflow="fold", ratio=2)
    shown.add_column("when", min_width=10)
    shown.add_column("what", overflow="fold", ratio=4)
    for run, row in disclosure["runs"].items():
        days = dict.fromkeys(time.strftime("%Y-%m-%d", time.localtime(row[end])) for end in ("first", "last"))
        shown.add_row(run, "\n".join(days), "\n".join(_what_left(row)) or "nothing")
    return shown


def _what_left(row: dict[str, Any]) -> list[str]:
    """A line for each kind of what left in a run."""
    lines = []
    if uploads := row.get("uploads"):
        labels = ", with labels" if row.get("labels") else ""
        lines.append(f"{uploads} upload{'s' * (uploads > 1)} at {row['snr_db']:.3g} dB{labels}")
    return lines + [f"{row[kind]:,} {names[row[kind] > 1]}" for kind, names in COUNTED.items() if row.get(kind)]


def _shown(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _act(arguments: list[str]) -> int:
    settings = DEFAULTS | dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if unknown := settings.keys() - DEFAULTS.keys():
        raise SettingError(min(unknown), settings[min(unknown)], f"one of {', '.join(DEFAULTS)}")
    folder = Path(settings["state"])
    path = ClientLayout(folder).ledger
    if not settings["state"] or not path.is_file():
        raise SettingError("state", settings["state"], f"the folder of a client's state, which holds {path.name}")
    disclosure = disclosed(Ledger(path), _delta(settings["delta"]))
    console, output = Console(highlight=False), Path(settings["output"] or folder)
    console.print(table(disclosure))
    for name, value in disclosure["whole"].items():
        console.print(f"{name}: {_shown(value)}")
    write_json(output / "disclosed.json", disclosure)
    draw_disclosure(disclosure["runs"], output / "disclosed.png")
    return 0


def _delta(text: str) -> float:
    try:
        delta = float(text)
    except ValueError:
        delta = math.nan
    if not 0 < delta < 1:
        raise SettingError("delta", text, "a number above 0 and below 1")
    return delta


main = command(_act, usage=__doc__ or "", going_on="nothing is lost")

if __name__ == "__main__":
    sys.exit(main())
