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

from collafuse_flwr.config import Config, setting_names
from collafuse_flwr.errors import UserError
from simulations.runners import RunFailed

CONF = Path(__file__).resolve().parents[1] / "conf"

#: Exit statuses: the run broke, there is a mistake in what was asked, the user stopped it.
FAILED = 1
USER_ERROR = 2
INTERRUPTED = 130
TERMINATED = 143


def register_schema() -> None:
    """Give Hydra the defaults of collafuse_flwr/config.py, which is where they live."""
    ConfigStore.instance().store(name="schema", node=Config().to_flat())


def entry(act: Callable[[DictConfig], None], config_name: str = "config", usage: str = "") -> Callable[[], int]:
    """A command that composes its settings with Hydra, acts on them and returns the exit status.

    A mistake in a setting is told in one line on standard error, with status 2; nothing else catches exceptions.
    --help prints `usage`, or what Hydra knows where there is none.
    """

    def main() -> int:
        if usage and {"-h", "--help"} & set(sys.argv[1:]):
            print(usage)
            return 0
        register_schema()
        # Hydra would print its own errors over several lines and exit; with this it raises them here.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        arguments = sys.argv[1:]
        paths = dict(argument.split("=", 1) for argument in arguments if _is_path(argument))
        sys.argv[1:] = [argument for argument in arguments if not _is_path(argument)]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
        composed: list[DictConfig] = []
        try:
            # Hydra announces errors of what it calls, so it is only asked for the settings.
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(composed.append)()
            sys.argv[1:] = arguments
            for settings in composed:
                settings.update(paths)
                act(settings)
        except RunFailed as error:
            if error.__cause__ is not None:
                traceback.print_exception(error.__cause__)
            return _complain(str(error), FAILED)
        except (UserError, HydraException, OmegaConfBaseException) as error:
            return _complain(_in_one_line(error, config_name))
        except KeyboardInterrupt:
            return _complain(
                "interrupted; resume=true with the same `output` goes on after the last round", INTERRUPTED
            )
        return 0

    return main


def fresh_folder(config: Config) -> str:
    """A new folder below runs/, named after the time and what is run."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.run.strategy}-{config.data.dataset}-c{config.split.cut_ratio:g}"
    folder = Path("runs", name).absolute()
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{name}-{number}")
    return str(folder)


def _is_path(argument: str) -> bool:
    """Whether it is `model=package.module:factory`: a value that Hydra would look for among the group's files."""
    name, _, value = argument.partition("=")
    return name == "model" and ":" in value


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
