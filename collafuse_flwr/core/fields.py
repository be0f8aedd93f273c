"""How a setting is declared, described and checked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import field
from typing import Any, TypeVar

from collafuse_flwr.core.errors import SettingError

T = TypeVar("T")


def setting(
    default: T,
    about: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    or_path: bool = False,
    joined: bool = False,
) -> T:
    """Declare a setting: its default, one line about it, and the range or choices allowed.

    `or_path` allows package.module:name as well, `joined` several choices with + between them.
    """
    meta = {"about": about, "low": low, "high": high, "above": above, "choices": choices}
    meta |= {"or_path": or_path, "joined": joined}
    default_field: Any = field(default=default, metadata=meta)
    result: T = default_field
    return result


def allowed(spec: Any) -> str:
    """What a setting may be, in words."""
    meta = spec.metadata
    if meta["choices"]:
        more = {"or_path": ", or package.module:factory", "joined": ", or several with + between"}
        return f"one of {', '.join(meta['choices'])}" + "".join(text for name, text in more.items() if meta[name])
    kind = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "text"}[spec.type]
    bounds = [
        f"{word} {meta[key]:g}"
        for key, word in (("low", ">="), ("above", ">"), ("high", "<="))
        if meta[key] is not None
    ]
    return " ".join([kind, " and ".join(bounds)]).strip()


_KINDS: dict[str, Callable[[object], bool]] = {
    "bool": lambda v: isinstance(v, bool),
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "float": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) <= sys.float_info.max,
    "str": lambda v: isinstance(v, (str, int, float)) and not isinstance(v, bool),
}
_CASTS: dict[str, Callable[[Any], Any]] = {"bool": bool, "int": int, "float": float, "str": str}


def coerce(spec: Any, value: Any) -> Any:
    """Check one value against its declaration; ints pass as floats, numbers as text."""
    meta = spec.metadata
    if not _KINDS[spec.type](value):
        raise SettingError(spec.name, value, allowed(spec))
    value = _CASTS[spec.type](value)
    low, above, high = meta["low"], meta["above"], meta["high"]
    out_of_range = (
        (low is not None and value < low)
        or (above is not None and value <= above)
        or (high is not None and value > high)
    )
    parts = value.split("+") if meta["joined"] else [value]
    known = all(part in meta["choices"] for part in parts) or (meta["or_path"] and ":" in value)
    unknown = meta["choices"] and not known
    if out_of_range or unknown:
        raise SettingError(spec.name, value, allowed(spec))
    return value
