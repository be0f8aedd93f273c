"""One run from the command line: `python -m simulations.run cut_ratio=0.4 dataset=mnist ...`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from collafuse_flwr.client.cut_selection import work_unit
from collafuse_flwr.config.config import Config, setting_help
from collafuse_flwr.config.sections import GANS
from collafuse_flwr.data.conditioning import num_attributes
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.images import normalize
from collafuse_flwr.diffusion.cost_model import largest_cut_within_time
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.evaluation.pretrained import pretrained_networks
from collafuse_flwr.gan.build import build_gan_architecture
from collafuse_flwr.gan.planning.cut_selection import select_cuts
from collafuse_flwr.privacy.cut_selection import choose_cut
from collafuse_flwr.runs.run_dir import read_config
from simulations import runners
from simulations.attack.run import attack_run, check_attack, default_request
from simulations.cli import entry, fresh_folder


def run(config: Config) -> None:
    """Run one federation with the runner that its settings name.

    Raises:
        UserError: a setting is not allowed, or the run failed.
    """
    preflight(config)
    folder = str(Path(config.run.output).absolute()) if config.run.output else fresh_folder(config)
    # What attacks is not the run, which knows nothing of it.
    finished = runners.run(replace(config, run=replace(config.run, output=folder, attack=False)))
    if config.run.attack:
        attack_run(default_request(finished.folder), Console(highlight=False))


def preflight(config: Config) -> None:
    """Find mistakes before anything is started: load the images, deal them, build the networks and read weights.

    Raises:
        UserError: there is one.
    """
    data = federation_data(config.data, config.run.num_supernodes, config.run.seed)
    setup, (_, channels, size, _) = DiffusionSetup.of(config), data.images.images.shape
    told = data.images.num_classes, num_attributes(config, data.images)
    if config.run.strategy in GANS:
        select_cuts(config, build_gan_architecture(config, channels, size, told[0]))
    else:
        setup.backbone(channels, size, *told)
        setup.denoiser(0, channels, size, *told)
    pretrained_networks(config.evaluation)
    if config.run.attack:
        check_attack(config, data)
    target = config.cut_target()
    if target is not None and target[0] in {"cut_snr_db", "cut_epsilon"}:
        # Any images do: these targets do not depend on them. For the others every client finds its own cut.
        choose_cut(config, setup.schedule, normalize(data.images.images[:2]), 0)
    if config.split.cut_seconds:
        unit = work_unit(setup, data.images)
        for client, own in enumerate(data.partitions):
            largest_cut_within_time(config, unit, len(own.train), client)


def configured(settings: DictConfig) -> Config:
    """The settings, or, to resume, those of the run in `output` with what was given on the command line on top."""
    flat = cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True))
    if flat.get("resume") is True:
        given = {argument.lstrip("+~").partition("=")[0] for argument in sys.argv[1:]}
        before = read_config(Path(str(flat["output"])).absolute()).to_flat()
        flat = before | {name: value for name, value in flat.items() if name in given}
    return Config.from_flat(flat)


def usage(purpose: str) -> str:
    """What a command is for, and every setting with its default and what is allowed."""
    about, lines = setting_help(), [purpose, "Settings (name=default: what it is):", ""]
    lines += [f"  {name}={value}: {about[name]}" for name, value in Config().to_flat().items()]
    return "\n".join([*lines, "", "federation=silos|devices and fleet=paper7 set several at once; see conf/."])


main = entry(lambda settings: run(configured(settings)), usage=usage(str(__doc__)))

if __name__ == "__main__":
    sys.exit(main())
