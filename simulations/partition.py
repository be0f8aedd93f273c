"""Who would hold which images: `python -m simulations.partition dataset=... partition=... num_supernodes=...`.

Takes the settings of simulations.run, trains nothing, and leaves a table (partition.csv) and a picture of stacked bars
(partition.png) in `output`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.runs.label_distribution import LabelDistribution
from simulations.cli import entry, fresh_folder, settings_usage
from simulations.run import configured


def partition(config: Config) -> Path:
    """Deal the images as a run with these settings would, and report it; the folder of the report.

    Raises:
        UserError: the images cannot be loaded or dealt, or `output` is no folder.
    """
    folder = Path(config.run.output).absolute() if config.run.output else Path(f"{fresh_folder(config)}-partition")
    if folder.exists() and not folder.is_dir():
        raise SettingError("output", str(folder), "a folder")
    data = federation_data(config.data, config.run.num_supernodes, config.run.seed)
    for line in data.images.report.lines:
        print(f"images: {line}")
    holdings = LabelDistribution.of(data)
    holdings.write(folder / "partition.csv")
    holdings.draw(folder / "partition.png", f"{config.data.name}, {config.data.partition}")
    holdings.show(Console(highlight=False))
    return folder


def _act(settings: DictConfig) -> None:
    print(f"Table and picture are in {partition(configured(settings))}")


main = entry(_act, usage=settings_usage(str(__doc__)))

if __name__ == "__main__":
    sys.exit(main())
