"""What is asked of an attack, and the attack of all clients of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from rich.console import Console

from collafuse_flwr.config import Config
from collafuse_flwr.data import FederationData, num_attributes
from collafuse_flwr.errors import SettingError
from collafuse_flwr.files import write_json
from collafuse_flwr.networks import PRESETS
from collafuse_flwr.process import Process
from collafuse_flwr.progress import counted
from simulations.asked import check_whole_numbers, folders
from simulations.attack.card import draw_card, draw_reconstructions, show_card
from simulations.attack.measure import attack
from simulations.attack.shadow import Shadow
from simulations.entry import CONF
from simulations.finished import Finished

#: Where results go below a run's folder, and the file that holds the numbers.
FOLDER, RESULTS = "attacks", "attacks.json"
#: Images of its own that an attacker needs.
MIN_SHADOWS = 2


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
        run, output = folders(settings, FOLDER)
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
    title = f"{config.run.strategy} on {run.data.images.name}"
    draw_card(rows, request.output / "leakage.png", title)
    if shown:
        draw_reconstructions(shown, request.output / "reconstructions.png", title)
    # Last, as it says that the others are there.
    write_json(request.output / RESULTS, described | effort | {"clients": rows})
    show_card(rows, title, console)
    console.print(f"Everything is in {request.output}", markup=False, soft_wrap=True)


def default_request(run: Path) -> Request:
    """An attack on a run with the effort of conf/attack.yaml; results of an earlier one are replaced."""
    known = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(CONF / "attack.yaml")))
    return Request(run, known["shadow_model"], known["shadow_steps"], known["inversions"], known["seed"], run / FOLDER)


def check_attack(config: Config, data: FederationData) -> None:
    """Find what would keep a run from being attacked before it is started.

    Raises:
        SettingError: the attacker would have too few images, or its network does not fit them.
    """
    shadows = sum(len(partition.held_out) for partition in data.partitions)
    if shadows < MIN_SHADOWS:
        raise SettingError("attack", True, f"false where {shadows} image is held out: the attacker needs {MIN_SHADOWS}")
    _, channels, size, _ = data.images.images.shape
    model = default_request(Path()).shadow_model
    try:
        Process.of(replace(config, model=replace(config.model, model=model))).backbone(
            channels, size, data.images.num_classes, num_attributes(config, data.images)
        )
    except SettingError as error:
        raise SettingError("attack", True, f"false where the attacker's network does not fit ({error})") from error
