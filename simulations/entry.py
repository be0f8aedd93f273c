"""What every entry point shares: settings through Hydra, errors in one line, an honest exit status."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from collafuse_flwr.config import Config
from collafuse_flwr.errors import UserError
from simulations.runners import RunFailed

CONF = Path(__file__).resolve().parents[1] / "conf"

#: Exit statuses: the run broke, there is a mistake in what was asked, the user stopped it.
FAILED = 1
USER_ERROR = 2
INTERRUPTED = 130


def register_schema() -> None:
    """Give Hydra the defaults of collafuse_flwr/config.py, which is where they live."""
    ConfigStore.instance().store(name="schema", node=Config().to_flat())


def entry(act: Callable[[DictConfig], None], config_name: str = "config") -> Callable[[], int]:
    """A command that composes its settings with Hydra, acts on them and returns the exit status.

    A mistake in a setting is told in one line on standard error, with status 2; nothing else catches exceptions.
    """

    def main() -> int:
        register_schema()
        # Hydra would print its own errors over several lines and exit; with this it raises them here.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        sys.argv[1:] = [_as_override(argument) for argument in sys.argv[1:]]
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(act)()
        except RunFailed as error:
            if error.__cause__ is not None:
                traceback.print_exception(error.__cause__)
            return _complain(str(error), FAILED)
        except UserError as error:
            return _complain(str(error))
        except MissingConfigException as error:
            return _complain(_missing(error))
        except (HydraException, OmegaConfBaseException) as error:
            return _complain(" ".join(str(error).split()))
        except KeyboardInterrupt:
            return _complain(
                "interrupted; resume=true with the same `output` goes on after the last whole round", INTERRUPTED
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


def _as_override(argument: str) -> str:
    """`model=package.module:factory` is a value, not one of the group's files."""
    name, _, value = argument.partition("=")
    return f"++{argument}" if name in ("model", "client_model") and ":" in value else argument


def _missing(error: MissingConfigException) -> str:
    """Name the setting, what it was given and what there is, where Hydra lists the files of a group."""
    group, _, choice = str(error.missing_cfg_file or "").partition("/")
    if not choice or not error.options:
        return " ".join(str(error).split())
    return f"`{group}` = {choice!r} is not allowed: one of {', '.join(sorted(error.options))}"


def _complain(line: str, status: int = USER_ERROR) -> int:
    print(f"error: {line}", file=sys.stderr)
    return status
