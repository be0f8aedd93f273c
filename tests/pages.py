"""The fenced blocks of a page."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A fenced block: what stands behind the fence (`sh server`), and the lines."""

    info: str
    text: str


def fenced(page: str) -> list[Block]:
    """All blocks, in order."""
    blocks = re.findall(r"^```([^\n`]*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [Block(info.strip(), text) for info, text in blocks]


def shell_blocks(page: str) -> list[Block]:
    """Those of commands that a test runs, in order, but the one that sets the variables."""
    return [block for block in fenced(page) if block.info.startswith("sh ") and block.info != "sh variables"]


def variables(page: str) -> str:
    """The block that sets the variables of the others."""
    (text,) = [block.text for block in fenced(page) if block.info == "sh variables"]
    return text
