"""One run from the command line: `python -m simulations.run cut_ratio=0.4 dataset=mnist ...`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from collafuse_flwr.artifacts import read_config
from collafuse_flwr.config import Config
from simulations import runners
from simulations.entry import entry, fresh_folder


def run(config: Config) -> None:
    """Run one federation with the runner that its settings name.

    Raises:
        UserError: a setting is not allowed, or the run failed.
    """
    folder = str(Path(config.run.output).absolute()) if config.run.output else fresh_folder(config)
    runners.run(replace(config, run=replace(config.run, output=folder)))


def configured(settings: DictConfig) -> Config:
    """The settings, or, to resume, those of the run in `output` with what was given on the command line on top."""
    flat = cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True))
    if flat.get("resume") is True:
        given = {override.lstrip("+~").partition("=")[0] for override in HydraConfig.get().overrides.task}
        before = read_config(Path(str(flat["output"])).absolute()).to_flat()
        flat = before | {name: value for name, value in flat.items() if name in given}
    return Config.from_flat(flat)


main = entry(lambda settings: run(configured(settings)))

if __name__ == "__main__":
    sys.exit(main())
