"""What every entry point shares: settings through Hydra, errors in one line, an honest exit status."""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from collafuse_flwr.config.config import Config, setting_names
from collafuse_flwr.core.errors import UserError
from simulations.runners.result import RunFailed

CONF = Path(__file__).resolve().parents[1] / "conf"

#: What asks Hydra for every combination of values.
MULTIRUN = {"-m", "--multirun"}

#: Signs that make a value literal: package.module:factory, several data sets, devices, paths, lists or folders.
LITERAL = {
    "model": ":",
    "dataset": "+",
    "dataset_path": ";",
    "attribute_groups": ";,",
    "devices": ",:",
    "dropped_classes": ",:",
    "size_shares": ",:",
    "runs": ("",),
    "attributes": ("",),
}

#: Exit statuses: the run broke, there is a mistake in what was asked, the user stopped it.
FAILED = 1
USER_ERROR = 2
INTERRUPTED = 130
TERMINATED = 143


def register_schema() -> None:
    """Give Hydra the defaults of collafuse_flwr/config/, which is where they live."""
    ConfigStore.instance().store(name="schema", node=Config().to_flat())


def entry(act: Callable[[DictConfig], None], config_name: str = "config", usage: str = "") -> Callable[[], int]:
    """A command that composes its settings with Hydra and acts on them, once."""

    def once(arguments: list[str]) -> int:
        if MULTIRUN & set(arguments):
            raise UserError("-m asks for several runs; `python -m simulations.sweep` makes them")
        for settings in compose(arguments, config_name):
            act(settings)
        return 0

    return command(once, config_name, usage)


def command(
    act: Callable[[list[str]], int],
    config_name: str = "config",
    usage: str = "",
    going_on: str = "resume=true with the same `output` goes on after the last round",
) -> Callable[[], int]:
    """A command that acts on its arguments and returns the exit status.

    A mistake in a setting is told in one line on standard error, with status 2; nothing else catches exceptions.
    --help prints `usage`, or what Hydra knows where there is none; `going_on` is told to who interrupts.
    """

    def main() -> int:
        if usage and {"-h", "--help"} & set(sys.argv[1:]):
            print(usage)
            return 0
        register_schema()
        # Hydra would print its own errors over several lines and exit; with this it raises them here.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
        try:
            return act(sys.argv[1:])
        except RunFailed as error:
            if error.__cause__ is not None:
                traceback.print_exception(error.__cause__)
            return _complain(str(error), FAILED)
        except (UserError, HydraException, OmegaConfBaseException) as error:
            return _complain(_in_one_line(error, config_name))
        except KeyboardInterrupt:
            return _complain(f"interrupted; {going_on}", INTERRUPTED)

    return main


def compose(arguments: list[str], config_name: str = "config") -> list[DictConfig]:
    """The settings that some arguments describe: one, or with -m one for each combination of values."""
    composed: list[DictConfig] = []
    # Hydra announces errors of what it calls, so it is only asked for the settings.
    launch(arguments, composed.append, config_name)
    literal = dict(argument.split("=", 1) for argument in arguments if _is_literal(argument))
    for settings in composed:
        settings.update(literal)
    return composed


def launch(arguments: list[str], task: Callable[[DictConfig], None], config_name: str = "config") -> None:
    """Let Hydra call a task for each combination of values, with the launcher that the arguments name."""
    before = sys.argv[1:]
    sys.argv[1:] = [argument for argument in arguments if not _is_literal(argument)]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)()
    finally:
        sys.argv[1:] = before


def fresh_folder(config: Config) -> str:
    """A new folder below runs/, named after the time and what is run."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.run.strategy}-{config.data.dataset}-c{config.split.cut_ratio:g}"
    folder = Path("runs", name).absolute()
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{name}-{number}")
    return str(folder)


def _is_literal(argument: str) -> bool:
    """Whether a value that is not in quotation marks would mean something else to Hydra, or nothing."""
    name, _, value = argument.partition("=")
    return value[:1] not in {"'", '"'} and name in LITERAL and any(sign in value for sign in LITERAL[name] or [""])


def _in_one_line(error: Exception, config_name: str) -> str:
    """What is wrong with a setting: its name, what it was given, what is allowed; Hydra would take several lines."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).partition("/")
        return f"`{group}` = {choice!r} is not allowed: one of {', '.join(sorted(error.options))}"
    unknown = re.match(r"Could not override '([^']+)'", str(error))
    if unknown is None:
        return " ".join(str(error).split())
    close = difflib.get_close_matches(unknown[1], _names(config_name), n=3)
    meant = f"; did you mean {' or '.join(f'`{other}`' for other in close)}?" if close else ""
    return f"`{unknown[1]}` is not a setting{meant} (--help lists all)"


def _names(config_name: str) -> list[str]:
    """The settings of an entry point: those in its own file, or, where it has none, those of the schema."""
    own = [str(name) for name in OmegaConf.load(CONF / f"{config_name}.yaml") if name not in ("defaults", "hydra")]
    return own or list(setting_names())


def _complain(line: str, status: int = USER_ERROR) -> int:
    print(f"error: {line}", file=sys.stderr)
    return status
