"""One run from the command line: `python -m simulations.run cut_ratio=0.4 dataset=mnist ...`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.runs.run_dir import read_config
from simulations import runners
from simulations.baseline import check_folder, run_alone
from simulations.cli import config_of, entry, flat_settings, fresh_folder, given_names, settings_usage
from simulations.runners.processes import leave


def run(config: Config) -> Path:
    """Run one federation with the runner that its settings name, or have one generate that has run; its folder.

    Raises:
        UserError: a setting is not allowed, or the run failed.
    """
    if config.run.task == "generate":
        return runners.run(_as_trained(config)).folder
    from simulations.preflight import preflight  # noqa: PLC0415 - slow, and a mistake in the settings is shown before

    preflight(config)
    folder = str(Path(config.run.output).absolute()) if config.run.output else fresh_folder(config)
    # What attacks it, or is held against it, is not the run, which knows nothing of it.
    own = replace(config.run, output=folder, attack=False, baseline="none")
    if config.run.baseline != "none":
        check_folder(Path(folder), config.run.resume)
    finished = runners.run(replace(config, run=own))
    if config.run.baseline != "none":
        run_alone(finished.folder, Console(highlight=False))
    if config.run.attack:
        from simulations.attack.run import attack_run, default_request  # noqa: PLC0415 - slow as well

        attack_run(default_request(finished.folder), Console(highlight=False))
    return finished.folder


def _as_trained(config: Config) -> Config:
    """The settings of a run that generates, with as many clients as the run that trained had.

    Raises:
        SettingError: there is none in `output`.
    """
    if not config.run.output:
        raise SettingError("output", "", "the folder of the run that has trained, when `task` is generate")
    folder = Path(config.run.output).absolute()
    clients = read_config(folder).run.num_supernodes
    return replace(config, run=replace(config.run, output=str(folder), num_supernodes=clients))


def configured(settings: DictConfig) -> Config:
    """The settings, or, to resume, those of the run in `output` with what was given on the command line on top."""
    names, flat = given_names(sys.argv[1:]), flat_settings(settings)
    if flat.get("resume") is True:
        before = read_config(Path(str(flat["output"])).absolute()).to_flat()
        return Config.from_flat(before | {name: flat[name] for name in names})
    return config_of(settings, names)


def _act(settings: DictConfig) -> None:
    run(configured(settings))


main = entry(_act, usage=settings_usage(str(__doc__)))

if __name__ == "__main__":
    leave(main())
