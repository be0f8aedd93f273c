"""Arguments of commands on a finished run: whole numbers, the run's folder, and the folder of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.runs.run_layout import RunLayout


def check_whole_numbers(settings: Mapping[str, Any], least: Mapping[str, int]) -> None:
    """Hold settings against the least value that each may have.

    Raises:
        SettingError: one is no whole number, or below its least value.
    """
    for name, low in least.items():
        if not isinstance(settings[name], int) or isinstance(settings[name], bool) or settings[name] < low:
            raise SettingError(name, settings[name], f"a whole number >= {low}")


def named_settings(arguments: list[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a command of its own, NAME=VALUE, on top of their defaults.

    Raises:
        SettingError: there is no such setting.
    """
    settings = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.from_cli(arguments)))
    if unknown := sorted(settings.keys() - defaults.keys()):
        raise SettingError(unknown[0], settings[unknown[0]], f"no such setting; there are {', '.join(defaults)}")
    return {**defaults, **settings}


def folders(settings: Mapping[str, Any], results: Callable[[RunLayout], Path]) -> tuple[Path, Path]:
    """The run's folder and the one for results, which is `below` the run's if `output` is empty.

    Raises:
        SettingError: no run is named, or there are results already.
    """
    if not settings["run"]:
        raise SettingError("run", "", "the folder of a finished run")
    run = Path(str(settings["run"])).absolute()
    output = Path(str(settings["output"])).absolute() if settings["output"] else results(RunLayout(run))
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise SettingError("output", str(output), "a new or empty folder")
    return run, output
