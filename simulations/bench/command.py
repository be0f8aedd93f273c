"""What benches have in common that are one table of rows: settings by name, the table, and a file of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import SettingError, UserError
from simulations.cli import complain
from simulations.cli_args import check_whole_numbers, named_settings

Rows = list[dict[str, Any]]


def bench(
    arguments: list[str],
    defaults: Mapping[str, Any],
    least: Mapping[str, int],
    measure: Callable[[dict[str, Any]], Rows],
    show: Callable[[Rows, Console], None],
) -> int:
    """Measure with the settings that are given, show and keep the rows, and return the exit status.

    `least` has the whole numbers among the settings, with the least value of each; `output` names the file, if any.
    """
    try:
        settings = named_settings(arguments, defaults)
        check_whole_numbers(settings, least)
        rows = measure(settings)
    except UserError as error:
        return complain(error)
    show(rows, Console())
    if settings["output"]:
        write_json(Path(settings["output"]), {"settings": settings, "rows": rows})
    return 0


def whole_numbers(settings: Mapping[str, Any], name: str) -> list[int]:
    """The numbers that a setting lists.

    Raises:
        SettingError: they are no whole numbers above 0, separated by commas.
    """
    parts = str(settings[name]).split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise SettingError(name, settings[name], "whole numbers above 0, separated by commas")
    return [int(part) for part in parts]
