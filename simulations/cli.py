"""What every entry point shares: settings through Hydra, errors in one line, an honest exit status."""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Any, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from collafuse_flwr.config.config import DEFAULTS, SETTINGS, Config, no_such_setting, setting_help, without_unread
from collafuse_flwr.config.strategies import STRATEGIES
from collafuse_flwr.core.atomic_io import as_file_name
from collafuse_flwr.core.errors import RunFailed, UserError
from simulations.runners.result import Stopped
from simulations.usage import show_usage

CONF = Path(__file__).resolve().parents[1] / "conf"

HELP = {"-h", "--help"}
#: What asks Hydra for every combination of values.
MULTIRUN = {"-m", "--multirun"}

#: Settings whose value is taken as it is: Hydra would read its commas as a sweep.
LITERAL = ("runs", "attributes")

#: Exit statuses: the run failed, there is a mistake in the arguments.
FAILED = 1
USER_ERROR = 2
#: And from here on the signal that ended it.
SIGNALLED = 128


def register_schema() -> None:
    """Give Hydra the defaults of collafuse_flwr/config/, which is where they live."""
    ConfigStore.instance().store(name="schema", node=Config().to_nested())


def entry(
    act: Callable[[DictConfig], None],
    config_name: str = "config",
    *,
    usage: Callable[[list[str]], str] | str,
    prepare: Callable[[list[str]], None] = lambda _: None,
) -> Callable[[], int]:
    """A command that composes its settings with Hydra and acts on them, once.

    `prepare` comes first, and may store further settings as NAME_schema of the command's file.
    """

    def once(arguments: list[str]) -> int:
        if MULTIRUN & set(arguments):
            raise UserError("-m asks for several runs; `python -m simulations.sweep` makes them")
        prepare(arguments)
        for settings in compose(arguments, config_name):
            act(settings)
        return 0

    return command(once, config_name, usage=usage)


def command(
    act: Callable[[list[str]], int],
    config_name: str = "config",
    *,
    usage: Callable[[list[str]], str] | str,
    going_on: str = "resume=true with the same `output` goes on after the last round",
) -> Callable[[], int]:
    """A command that acts on its arguments and returns the exit status.

    A mistake in a setting is one line on standard error, with status 2; nothing else catches exceptions.
    --help shows `usage` of the other arguments; `going_on` says to who interrupts how to continue.
    """

    def main() -> int:
        register_schema()
        # Hydra would print its own errors over several lines and exit; with this it raises them here.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        _stop_in_good_order()
        try:
            if HELP & set(sys.argv[1:]):
                arguments = [argument for argument in sys.argv[1:] if argument not in HELP]
                show_usage(usage if isinstance(usage, str) else usage(arguments))
                return 0
            return act(sys.argv[1:])
        except UserError as error:
            return complain(error)
        except (HydraException, OmegaConfBaseException) as error:
            return _complain(_in_one_line(error, config_name), USER_ERROR)
        except Stopped as stopped:
            return _complain(
                f"stopped by {signal.Signals(stopped.number).name}; {going_on}", SIGNALLED + stopped.number
            )
        except KeyboardInterrupt:
            return _complain(f"interrupted; {going_on}", SIGNALLED + signal.SIGINT)

    return main


def _stop_in_good_order() -> None:
    """Let signals that end a program end this one as Ctrl-C does; one that is ignored (nohup) stays so."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    for name in ("SIGTERM", "SIGHUP"):
        # Windows has no SIGHUP.
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def compose(arguments: list[str], config_name: str = "config") -> list[DictConfig]:
    """The settings that some arguments describe: one, or with -m one for each combination of values."""
    composed: list[DictConfig] = []
    # Hydra announces errors of what it calls, so it only composes the settings.
    launch(arguments, composed.append, config_name)
    literal = dict(argument.split("=", 1) for argument in arguments if _is_literal(argument))
    for settings in composed:
        settings.update(literal)
    return composed


def given_names(arguments: list[str]) -> set[str]:
    """The settings that arguments give a value."""
    return {argument.lstrip("+~").partition("=")[0] for argument in arguments} & SETTINGS.keys()


def flat_settings(settings: DictConfig) -> dict[str, object]:
    """Composed settings by their public names."""
    nested = cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True))
    flat: dict[str, object] = {}
    for name, value in nested.items():
        flat |= {f"{name}.{own}": item for own, item in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def config_of(settings: DictConfig, names: Collection[str]) -> Config:
    """Composed settings; what the strategy does not read is an error if it was given, and dropped from recipes.

    Raises:
        SettingError: a setting is not allowed.
    """
    return Config.from_flat(without_unread(flat_settings(settings), names))


def settings_usage(purpose: str) -> Callable[[list[str]], str]:
    """What a command is for, and every setting with its default and what is allowed; with arguments those in effect."""

    def usage(arguments: list[str]) -> str:
        config = config_of(compose(arguments)[0], given_names(arguments)) if arguments else None
        values = DEFAULTS if config is None else config.to_flat()
        which = "Settings" if config is None else f"Settings that strategy={config.run.strategy} reads"
        lines = [
            purpose.strip(),
            "",
            f"{which} (name=default: what it is):" if config is None else f"{which} (name=value: what it is):",
        ]
        group = None
        for name, about in setting_help(config).items():
            if (own := name.rpartition(".")[0]) != group:
                group = own
                lines.append("")
            lines.append(f"  {name}={_shown(values[name])}: {about}")
        if config is None:
            lines += ["", "--help strategy=NAME lists what one strategy reads:"]
            lines += [f"  {spec.name}: {spec.about}" for spec in STRATEGIES.values()]
        lines += ["", "scale=cross_device, fleet=paper7 and experiment=NAME set several at once; see conf/."]
        return "\n".join(lines)

    return usage


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")


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
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.run.strategy}-{config.data.name}-c{config.cut.cut_ratio:g}"
    name = as_file_name(name)
    folder = Path("runs", name).absolute()
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{name}-{number}")
    return str(folder)


def _is_literal(argument: str) -> bool:
    """Whether a value is taken as it is."""
    return argument.partition("=")[0] in LITERAL


def _in_one_line(error: Exception, config_name: str = "config") -> str:
    """The error about a setting: its name, its value, what is allowed; Hydra would take several lines."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).partition("/")
        return f"`{group}` = {choice!r} is not allowed: one of {', '.join(sorted(error.options))}"
    unknown = re.match(r"Could not override '([^']+)'", str(error))
    if unknown is None:
        return " ".join(str(error).split())
    own = _names(config_name)
    if not own:
        return f"`{unknown[1]}`: {no_such_setting(unknown[1])}"
    close = difflib.get_close_matches(unknown[1], own, n=3)
    meant = f"; did you mean {' or '.join(f'`{other}`' for other in close)}?" if close else ""
    return f"`{unknown[1]}` is not a setting{meant} (--help lists all)"


def _names(config_name: str) -> list[str]:
    """The settings in the file of an entry point; none where it has those of a run."""
    stored = ConfigStore.instance().repo.get(f"{config_name}_schema.yaml")
    names = [*OmegaConf.load(CONF / f"{config_name}.yaml"), *(stored.node if stored else ())]
    return [str(name) for name in names if name not in ("defaults", "hydra")]


def complain(error: UserError) -> int:
    """Say what went wrong, in one line on standard error; the exit status: a run failed, or the arguments are wrong."""
    if not isinstance(error, RunFailed):
        return _complain(_in_one_line(error), USER_ERROR)
    if error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
    return _complain(str(error), FAILED)


def _complain(line: str, status: int) -> int:
    print(f"error: {line}", file=sys.stderr)
    return status
