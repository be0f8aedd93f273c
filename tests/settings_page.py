"""docs/settings.md, made from the code: `uv run python -m tests.settings_page` writes it, and a test compares it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import Field
from pathlib import Path
from typing import Any

from collafuse_flwr.config.config import DEFAULTS, GROUPS, SETTINGS
from collafuse_flwr.config.strategies import STRATEGIES
from collafuse_flwr.core.fields import allowed

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """# Settings

Every setting of a run, by group. `uv run python -m simulations.run --help strategy=NAME` lists those that one strategy
reads. On the command line and in YAML lists are `[a,b]`; in Flower's run config names have hyphens, and lists are JSON
text. This page is made from the code by `uv run python -m tests.settings_page`.

## Strategies

| `strategy` | what it is |
|---|---|
"""


def page() -> str:
    """The whole page."""
    strategies = "".join(f"| `{spec.name}` | {spec.about} |\n" for spec in STRATEGIES.values())
    top = [name for name in SETTINGS if "." not in name]
    sections = [_section("Settings without a group", "Those that are changed most often.", top)]
    for group, kind in GROUPS.items():
        names = [name for name, (own, _) in SETTINGS.items() if own == group and "." in name]
        if names:
            sections.append(_section(f"`{group}`", f"{kind.__doc__} {_readers(names)}".strip(), names))
    return HEAD + strategies + "".join(sections)


def _section(title: str, about: str, names: list[str]) -> str:
    rows = "".join(f"{row}\n" for row in map(_row, names))
    return f"\n## {title}\n\n{about}\n\n| setting | default | meaning | allowed |\n|---|---|---|---|\n{rows}"


def _row(name: str) -> str:
    spec = SETTINGS[name][1]
    default = DEFAULTS[name]
    shown = default if isinstance(default, str) else json.dumps(default, separators=(",", ":"))
    conditions = " or ".join(_conditions(spec))
    about = f"{spec.metadata['about']}{f' (if {conditions})' if conditions else ''}"
    return f"| `{name}` | {f'`{shown}`' if shown else ''} | {about} | {allowed(spec)} |"


def _conditions(spec: Field[Any]) -> Iterator[str]:
    """The alternatives of other settings under which a setting is read."""
    for alternative in spec.metadata["when"]:
        yield " and ".join(f"`{other}={value}`" for other, value in alternative.items())


def _readers(names: list[str]) -> str:
    """Which strategies read at least one setting of a group."""
    readers = [
        spec.name for spec in STRATEGIES.values() if any(spec.reads_setting(SETTINGS[name][0], name) for name in names)
    ]
    return "" if len(readers) == len(STRATEGIES) else f"Read by {', '.join(f'`{name}`' for name in readers)}."


if __name__ == "__main__":
    PAGE.write_text(page())
