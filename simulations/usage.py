"""What a command's --help shows: by the name that it was called by, and as wide as the terminal."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap

import click

from simulations.console import COMMANDS, RUN_AS

#: What a line that goes on is indented by, beside the line's own.
GOING_ON = 4
#: Lines that are indented by so much are to be typed as they are.
TYPED = 4
#: Columns of the widest text, and of the narrowest that is wrapped.
WIDEST, NARROWEST = 120, 40


def show_usage(text: str) -> None:
    """Print the help of a command: a line for each setting, or, on a terminal, as many as its width needs."""
    if click.get_current_context(silent=True):
        text = as_commands(text)
    if sys.stdout.isatty():
        text = wrapped(text, max(NARROWEST, min(WIDEST, shutil.get_terminal_size().columns)))
    print(text, flush=True)


def as_commands(text: str) -> str:
    """The text with `collafuse NAME` for each `python -m simulations.MODULE`."""
    names = {RUN_AS.get(name, module): name for name, module in COMMANDS.items()}
    modules = "|".join(map(re.escape, names))
    return re.sub(rf"(?:python -m )?simulations\.({modules})\b", lambda match: f"collafuse {names[match[1]]}", text)


def wrapped(text: str, width: int) -> str:
    """The text in lines of at most `width` characters: sentences fill them, and a setting begins a line of its own."""
    blocks: list[str] = []
    for line in text.strip("\n").splitlines():
        # Sentences are written in lines of 120 characters.
        if line and not line.startswith(" ") and blocks and blocks[-1] and not blocks[-1].startswith(" "):
            blocks[-1] += f" {line}"
        else:
            blocks.append(line)
    return "\n".join(_filled(block, width) for block in blocks)


def _filled(block: str, width: int) -> str:
    indent = len(block) - len(block.lstrip())
    if indent >= TYPED or len(block) <= width:
        return block
    further = " " * (indent + GOING_ON if indent else 0)
    return textwrap.fill(block, width, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)
