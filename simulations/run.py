"""One run from the command line: `python -m simulations.run cut_ratio=0.4 dataset=mnist ...`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from collafuse_flwr.artifacts import read_config
from collafuse_flwr.client.cut import unit_of
from collafuse_flwr.config import GANS, Config, setting_help
from collafuse_flwr.data import federation_data, num_attributes, to_model_space
from collafuse_flwr.duration import last_cut
from collafuse_flwr.evaluation import pretrained_networks
from collafuse_flwr.gan.choice import cuts_of
from collafuse_flwr.gan.settings import architecture_of
from collafuse_flwr.privacy.choice import choose_cut
from collafuse_flwr.process import Process
from simulations import runners
from simulations.attack.request import attack_run, check_attack, default_request
from simulations.entry import entry, fresh_folder


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
    process, (_, channels, size, _) = Process.of(config), data.images.images.shape
    told = data.images.num_classes, num_attributes(config, data.images)
    if config.run.strategy in GANS:
        cuts_of(config, architecture_of(config, channels, size, told[0]))
    else:
        process.backbone(channels, size, *told)
        process.denoiser(0, channels, size, *told)
    pretrained_networks(config.evaluation)
    if config.run.attack:
        check_attack(config, data)
    target = config.cut_target()
    if target is not None and target[0] in {"cut_snr_db", "cut_epsilon"}:
        # Any images do: these targets do not depend on them. For the others every client finds its own cut.
        choose_cut(config, process.schedule, to_model_space(data.images.images[:2]), 0)
    if config.split.cut_seconds:
        unit = unit_of(process, data.images)
        for client, own in enumerate(data.partitions):
            last_cut(config, unit, len(own.train), client)


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
