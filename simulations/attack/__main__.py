"""Attacks on a finished simulation: `python -m simulations.attack run=runs/...`.

Measures what can be made of all that its server received and of its networks, and leaves attacks.json, the leakage
card (leakage.png) and the images that are reconstructed best (reconstructions.png) in `output`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from collafuse_flwr.errors import SettingError
from collafuse_flwr.files import write_json
from collafuse_flwr.networks import PRESETS
from collafuse_flwr.progress import counted
from simulations.asked import check_whole_numbers, folders
from simulations.attack.card import draw_card, draw_reconstructions, show_card
from simulations.attack.measure import attack
from simulations.attack.shadow import Shadow
from simulations.entry import entry
from simulations.finished import Finished


@dataclass(frozen=True)
class Request:
    """What to attack, with what effort, and where the results go."""

    run: Path
    shadow_model: str
    shadow_steps: int
    inversions: int
    seed: int
    output: Path

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Request:
        """Check the settings.

        Raises:
            SettingError: a value is missing or not allowed.
        """
        check_whole_numbers(settings, {"shadow_steps": 1, "inversions": 0, "seed": 0})
        run, output = folders(settings, "attacks")
        if settings["shadow_model"] not in PRESETS:
            raise SettingError("shadow_model", settings["shadow_model"], f"one of {', '.join(PRESETS)}")
        return cls(
            run,
            str(settings["shadow_model"]),
            settings["shadow_steps"],
            settings["inversions"],
            settings["seed"],
            output,
        )


def attack_run(request: Request, console: Console) -> None:
    """Attack every client of a run; the numbers, a table of them and pictures.

    Raises:
        UserError: the folder holds no finished simulation, or its pool something else than its clients' releases.
    """
    run = Finished.of(request.run)
    shadow = Shadow.of(run, request.shadow_model, request.shadow_steps, request.seed)
    rows, shown = [], []
    for known in counted(run.clients, "clients attacked", total=len(run.clients)):
        row, worst = attack(run, known, shadow, request.inversions)
        rows.append(row)
        shown += [] if worst is None else [worst]
    config = run.process.config
    described = {"run": str(request.run), "strategy": config.run.strategy, "seed": request.seed}
    effort = {
        "shadow_model": request.shadow_model,
        "shadow_steps": request.shadow_steps,
        "inversions": request.inversions,
    }
    write_json(request.output / "attacks.json", described | effort | {"clients": rows})
    title = f"{config.run.strategy} on {run.data.images.name}"
    draw_card(rows, request.output / "leakage.png", title)
    if shown:
        draw_reconstructions(shown, request.output / "reconstructions.png", title)
    show_card(rows, title, console)
    console.print(f"Everything is in {request.output}", markup=False, soft_wrap=True)


def _act(settings: DictConfig) -> None:
    request = Request.of(cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True)))
    attack_run(request, Console(highlight=False))


main = entry(_act, "attack")

if __name__ == "__main__":
    sys.exit(main())
