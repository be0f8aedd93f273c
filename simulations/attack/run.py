"""The request for an attack, and the attack on all clients of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import as_file_name, write_json
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.progress import counted
from collafuse_flwr.data.federated import FederationData
from collafuse_flwr.runs.run_dir import read_config
from collafuse_flwr.runs.run_layout import ATTACK_RESULTS, RunLayout
from simulations.attack.card import draw_card, draw_reconstructions, show_card
from simulations.attack.registry import attack_specs, built_in, effort, settings_of
from simulations.attack.spec import AttackSpec, BestReconstructions, Outcome
from simulations.attack.target import AttackedRun, ClientTarget
from simulations.cli_args import check_whole_numbers, folders

#: Images of its own that an attacker needs.
MIN_SHADOWS = 2
PICTURE = "reconstructions"


@dataclass(frozen=True)
class AttackRequest:
    """What to attack, in which ways and with what effort, and where the results go."""

    run: Path
    output: Path
    seed: int
    attacks: tuple[tuple[AttackSpec, Any], ...]

    @classmethod
    def of(cls, settings: Mapping[str, Any], specs: Sequence[AttackSpec]) -> AttackRequest:
        """Check the settings, those of the attacks among them.

        Raises:
            SettingError: a value is missing or not allowed.
        """
        check_whole_numbers(settings, {"seed": 0})
        run, output = folders(settings, lambda layout: layout.attacks)
        return cls(run, output, settings["seed"], _with_settings(specs, settings))


def _with_settings(specs: Sequence[AttackSpec], settings: Mapping[str, Any]) -> tuple[tuple[AttackSpec, Any], ...]:
    return tuple((spec, settings_of(spec, settings)) for spec in specs)


def default_request(run: Path, **overrides: Any) -> AttackRequest:
    """An attack on a run in all ways, with other settings than the defaults if given; earlier results are replaced.

    Raises:
        SettingError: a setting is not one of an attack, or not allowed.
    """
    specs = attack_specs()
    settings = effort(specs)
    for name, value in overrides.items():
        if name not in settings:
            raise SettingError(name, value, f"a setting of an attack: {', '.join(settings)}")
    settings |= overrides
    return AttackRequest(run, RunLayout(run).attacks, 0, _with_settings(specs, settings))


def attack_run(request: AttackRequest, console: Console) -> Path:
    """Attack every client of a run; the numbers, a table of them and pictures; the folder of these.

    Raises:
        UserError: the folder holds no finished simulation, or its pool something else than its clients' releases, or
            no attack applies to it.
    """
    if not RunLayout(request.run).config.is_file():
        raise SettingError("run", str(request.run), "the folder of a finished run")
    config = read_config(request.run)
    attacks = [(spec, settings) for spec, settings in request.attacks if spec.applies(config)]
    if not attacks:
        raise SettingError("run", str(request.run), f"a run that an attack applies to, not of {config.run.strategy}")
    attacked = AttackedRun.of(request.run, request.seed)
    rows, shown = _attack_clients(attacked, attacks)
    title, specs = f"{config.run.strategy} on {attacked.data.images.name}", [spec for spec, _ in attacks]
    draw_card(specs, rows, request.output / "leakage.png", title)
    for place, spec in enumerate(spec for spec in specs if spec.name in shown):
        suffix = f"-{as_file_name(spec.name)}" if place else ""
        draw_reconstructions(spec, shown[spec.name], request.output / f"{PICTURE}{suffix}.png", title)
    described: dict[str, Any] = {"run": str(request.run), "strategy": config.run.strategy, "seed": request.seed}
    for _, settings in attacks:
        described |= asdict(settings) if settings is not None else {}
    # Who compares runs need not have installed others' attacks.
    others = [asdict(column) for spec in specs if spec not in built_in() for column in spec.columns]
    # Last, as it says that the others are there.
    columns = {"columns": others} if others else {}
    write_json(request.output / ATTACK_RESULTS, described | columns | {"clients": rows})
    show_card(specs, rows, title, console)
    console.print(f"Everything is in {request.output}", markup=False, soft_wrap=True)
    return request.output


def _attack_clients(
    attacked: AttackedRun, attacks: Sequence[tuple[AttackSpec, Any]]
) -> tuple[list[dict[str, Any]], dict[str, list[BestReconstructions]]]:
    """The rows of all clients, and the images to be shown, by the attack that rebuilt them."""
    rows: list[dict[str, Any]] = []
    shown: dict[str, list[BestReconstructions]] = {}
    for summary in counted(attacked.clients, "clients attacked", total=len(attacked.clients)):
        target = ClientTarget(attacked, summary)
        row = target.row()
        for spec, settings in attacks:
            outcome: object = spec.run(target, settings)
            if not isinstance(outcome, Outcome):
                raise SettingError("attacks", spec.name, f"one that returns an Outcome, not {type(outcome).__name__}")
            row |= outcome.numbers
            if outcome.images is not None:
                shown.setdefault(spec.name, []).append(outcome.images)
        rows.append(row)
    return rows, shown


def check_attack(config: Config, data: FederationData) -> None:
    """Find what would keep a run from being attacked before it is started.

    Raises:
        SettingError: no attack applies to it, or the attacker would have too few images, or an attack refuses.
    """
    attacks = [(spec, settings) for spec, settings in default_request(Path()).attacks if spec.applies(config)]
    if not attacks:
        raise SettingError("attack", True, f"false for {config.run.strategy}: no attack applies to it")
    shadows = sum(len(partition.held_out) for partition in data.partitions)
    if shadows < MIN_SHADOWS:
        raise SettingError("attack", True, f"false where {shadows} image is held out: the attacker needs {MIN_SHADOWS}")
    for spec, settings in attacks:
        spec.check(config, data, settings)
