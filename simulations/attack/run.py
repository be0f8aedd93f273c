"""The request for an attack, and the attack on all clients of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from rich.console import Console

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.progress import counted
from collafuse_flwr.data.conditioning import num_attributes
from collafuse_flwr.data.federated import FederationData
from collafuse_flwr.diffusion.unet import PRESETS
from collafuse_flwr.runs.loaded_run import FinishedRun
from collafuse_flwr.runs.run_dir import read_config
from collafuse_flwr.runs.run_layout import ATTACK_RESULTS, RunLayout
from collafuse_flwr.setup.diffusion import diffusion_setup
from simulations.attack.reconstruction import BestReconstructions
from simulations.attack.render import draw_card, draw_reconstructions, show_card
from simulations.attack.report_spec import CARD, SPLIT_CARD
from simulations.attack.shadow_models import ShadowAttacker
from simulations.attack.split_gan import SplitRun, attack_split, mean_image
from simulations.attack.suite import attack
from simulations.cli import CONF
from simulations.cli_args import check_whole_numbers, folders

#: Images of its own that an attacker needs.
MIN_SHADOWS = 2
#: The least that whole numbers may be.
LEAST = {"shadow_steps": 1, "inversions": 0, "split_rows": 1, "split_steps": 0, "seed": 0}
#: The one GAN whose clients send what is made of their images.
SPLIT_GAN = "huscf_gan"
#: The data set, the effort, the rows of the clients, and the images to be shown.
AttackResult = tuple[str, dict[str, Any], list[dict[str, Any]], list[BestReconstructions]]


@dataclass(frozen=True)
class AttackRequest:
    """What to attack, with what effort, and where the results go."""

    run: Path
    shadow_model: str
    shadow_steps: int
    inversions: int
    split_rows: int
    split_steps: int
    seed: int
    output: Path

    @classmethod
    def of(cls, settings: dict[str, Any]) -> AttackRequest:
        """Check the settings.

        Raises:
            SettingError: a value is missing or not allowed.
        """
        check_whole_numbers(settings, LEAST)
        run, output = folders(settings, lambda layout: layout.attacks)
        if settings["shadow_model"] not in PRESETS:
            raise SettingError("shadow_model", settings["shadow_model"], f"one of {', '.join(PRESETS)}")
        return cls(run=run, output=output, **_chosen(settings))


def attack_run(request: AttackRequest, console: Console) -> None:
    """Attack every client of a run; the numbers, a table of them and pictures.

    Raises:
        UserError: the folder holds no finished simulation, or its pool something else than its clients' releases.
    """
    if not RunLayout(request.run).config.is_file():
        raise SettingError("run", str(request.run), "the folder of a finished run")
    config = read_config(request.run)
    strategy = config.run.strategy
    if strategy == SPLIT_GAN:
        name, effort, rows, shown = _attack_split(request)
    elif config.spec.is_gan:
        raise SettingError("run", str(request.run), f"a run of diffusion models or {SPLIT_GAN}, not of {strategy}")
    else:
        name, effort, rows, shown = _attack_releases(request)
    card, title = SPLIT_CARD if strategy == SPLIT_GAN else CARD, f"{strategy} on {name}"
    draw_card(card, rows, request.output / "leakage.png", title)
    if shown:
        draw_reconstructions(shown, request.output / "reconstructions.png", title)
    described = {"run": str(request.run), "strategy": strategy, "seed": request.seed}
    # Last, as it says that the others are there.
    write_json(request.output / ATTACK_RESULTS, described | effort | {"clients": rows})
    show_card(card, rows, title, console)
    console.print(f"Everything is in {request.output}", markup=False, soft_wrap=True)


def _attack_releases(request: AttackRequest) -> AttackResult:
    """All attacks on noised images, on networks and samples."""
    run = FinishedRun.of(request.run)
    shadow = ShadowAttacker.of(run, request.shadow_model, request.shadow_steps, request.seed)
    rows, shown = _collect(run.clients, lambda known: attack(run, known, shadow, request.inversions))
    return run.data.images.name, _effort(request, "shadow_model", "shadow_steps", "inversions"), rows, shown


def _attack_split(request: AttackRequest) -> AttackResult:
    """The inversion of a split discriminator's activations."""
    run = SplitRun.of(request.run)
    guess, effort = mean_image(run.data), (request.split_rows, request.split_steps)
    rows, shown = _collect(run.clients, lambda known: attack_split(run, known, guess, *effort))
    return run.data.images.name, _effort(request, "split_rows", "split_steps"), rows, shown


def _collect(
    clients: list[dict[str, Any]],
    attack_one: Callable[[dict[str, Any]], tuple[dict[str, Any], BestReconstructions | None]],
) -> tuple[list[dict[str, Any]], list[BestReconstructions]]:
    """The rows of all clients, and the images to be shown."""
    found = [attack_one(known) for known in counted(clients, "clients attacked", total=len(clients))]
    return [row for row, _ in found], [worst for _, worst in found if worst is not None]


def _effort(request: AttackRequest, *names: str) -> dict[str, Any]:
    return {name: getattr(request, name) for name in names}


def _chosen(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in ("shadow_model", *LEAST)}


def default_request(run: Path) -> AttackRequest:
    """An attack on a run with the effort of conf/attack.yaml; results of an earlier one are replaced."""
    known = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(CONF / "attack.yaml")))
    return AttackRequest(run=run, output=RunLayout(run).attacks, **_chosen(known))


def check_attack(config: Config, data: FederationData) -> None:
    """Find what would keep a run from being attacked before it is started.

    Raises:
        SettingError: the strategy is not attacked, or the attacker would have too few images, or its network does
            not fit them.
    """
    strategy = config.run.strategy
    if config.spec.is_gan and strategy != SPLIT_GAN:
        raise SettingError("attack", True, f"false for {strategy}: of GANs only {SPLIT_GAN} is attacked")
    shadows = sum(len(partition.held_out) for partition in data.partitions)
    if shadows < MIN_SHADOWS:
        raise SettingError("attack", True, f"false where {shadows} image is held out: the attacker needs {MIN_SHADOWS}")
    if strategy == SPLIT_GAN:
        return
    _, channels, size, _ = data.images.images.shape
    model = default_request(Path()).shadow_model
    try:
        diffusion_setup(replace(config, diffusion=replace(config.diffusion, model=model))).backbone(
            channels, size, data.images.num_classes, num_attributes(config.data.conditioning, data.images)
        )
    except SettingError as error:
        raise SettingError("attack", True, f"false where the attacker's network does not fit ({error})") from error
