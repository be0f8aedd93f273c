"""The command `collafuse`: each of its commands is `python -m simulations.NAME`, with the same arguments and status.

`collafuse --help` lists them, `collafuse NAME --help` explains one. In bash
`eval "$(_COLLAFUSE_COMPLETE=bash_source collafuse)"` completes commands and settings; zsh and fish have theirs.
"""

from __future__ import annotations

import ast
import importlib.util
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem

#: Command -> the module that explains it, in the order in which one needs them.
COMMANDS = {
    "run": "run",
    "codec": "codec",
    "sweep": "sweep.sweep",
    "suite": "suite",
    "advise": "advise",
    "report": "report.__main__",
    "generate": "generate",
    "attack": "attack.__main__",
    "partition": "partition",
    "plan": "plan_cuts",
    "status": "status",
    "disclosed": "disclosed",
    "request": "request",
    "submit": "submit",
    "superlink": "superlink",
    "supernode": "supernode",
    "check-node": "check_node",
    "sign": "sign",
    "doctor": "doctor",
}
#: What is run where another module explains it.
RUN_AS = {"report": "report", "attack": "attack", "sweep": "sweep"}
#: Those that take the settings of a run.
TAKE_SETTINGS = {"run", "sweep", "suite", "advise", "partition", "plan"}


class _Modules(click.Group):
    """The commands, none of whose modules is imported before it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's)
        if cmd_name not in COMMANDS:
            return None

        def act(arguments: tuple[str, ...]) -> None:
            _run(cmd_name, arguments)

        return click.Command(
            cmd_name,
            callback=act,
            params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED, shell_complete=_complete)],
            short_help=_about(cmd_name),
            # The module explains itself.
            add_help_option=False,
            context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
        )


def _run(name: str, arguments: tuple[str, ...]) -> None:
    """Run a module as `python -m` does; it exits by itself."""
    sys.argv = [f"collafuse {name}", *arguments]
    runpy.run_module(f"simulations.{RUN_AS.get(name, COMMANDS[name])}", run_name="__main__", alter_sys=True)


def _about(name: str) -> str:
    """What a command does, from the first line of its module: importing it would take seconds."""
    spec = importlib.util.find_spec(f"simulations.{COMMANDS[name]}")
    assert spec is not None
    assert spec.origin is not None
    documentation = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    return documentation.split("`python -m")[0].splitlines()[0].rstrip(": ,")


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Settings by their public names, and after `=` the values of those that have a choice."""
    if ctx.info_name not in TAKE_SETTINGS:
        return []
    words, typed = [*ctx.params.get("arguments", ()), *ctx.args], incomplete.removeprefix("=")
    # bash takes `=` for a word of its own, which click may leave out, and completes what comes after it alone.
    name = next((word for word in reversed(words) if word != "="), "")
    after = any(text.startswith(f"{name}=") for text in _settings())
    begun = f"{name}={typed}" if after else typed
    return [CompletionItem(text[len(begun) - len(typed) :]) for text in _settings() if text.startswith(begun)]


def _settings() -> Iterator[str]:
    from collafuse_flwr.config.config import SETTINGS  # noqa: PLC0415 - the list of commands needs it not

    for name, (_, spec) in SETTINGS.items():
        choices = ["true", "false"] if spec.type == "bool" else spec.metadata["choices"]
        yield from (f"{name}={choice}" for choice in choices or ("",))


@click.group(cls=_Modules, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="collafuse-flwr")
def main() -> None:
    """Split diffusion for Flower: train generative models together on images that may not be shared."""
