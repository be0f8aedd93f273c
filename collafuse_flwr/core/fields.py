"""How a setting is declared, described and checked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import Field, field
from typing import Any, TypeAlias, TypeVar

from collafuse_flwr.core.errors import SettingError

T = TypeVar("T")
#: Lists, as settings hold them.
Numbers: TypeAlias = tuple[float, ...]
Texts: TypeAlias = tuple[str, ...]
TextLists: TypeAlias = tuple[tuple[str, ...], ...]
NumberPairs: TypeAlias = tuple[tuple[float, float], ...]
#: A value as YAML, JSON and the command line know it.
Plain: TypeAlias = Any


def setting(
    default: T,
    about: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    or_path: bool = False,
    top: bool = False,
    when: tuple[dict[str, object], ...] = (),
) -> T:
    """Declare a setting: its default, one line about it, and the range or choices allowed.

    `or_path` allows package.module:name as well. The public name is group.name, or the name alone with `top`. `when`
    lists alternatives: the setting is read if other settings, by public name, have the values of one of them.
    """
    meta: dict[str, Any] = {"about": about, "low": low, "high": high, "above": above, "choices": choices}
    meta |= {"or_path": or_path, "top": top, "when": when}
    default_field: Any = field(default=default, metadata=meta)
    result: T = default_field
    return result


_KINDS: dict[str, Callable[[object], bool]] = {
    "bool": lambda v: isinstance(v, bool),
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "float": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) <= sys.float_info.max,
    "str": lambda v: isinstance(v, (str, int, float)) and not isinstance(v, bool),
}
_CASTS: dict[str, Callable[[Any], Any]] = {"bool": bool, "int": int, "float": float, "str": str}
#: The type of a list's items, and how deep the list is.
_LISTS = {"Numbers": ("float", 1), "Texts": ("str", 1), "TextLists": ("str", 2), "NumberPairs": ("float", 2)}
_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "Numbers": "a list of numbers, [0.1,0.2]",
    "Texts": "text, or a list of texts, [a,b]",
    "TextLists": "a list of lists of texts, [[a,b],[c]]",
    "NumberPairs": "a list of pairs of numbers, [[0,0.3],[2,0.7]]",
}


def allowed(spec: Field[Any]) -> str:
    """What a setting may be, in words."""
    meta = spec.metadata
    if meta["choices"]:
        several = "one or a list of " if spec.type == "Texts" else "one of "
        return several + ", ".join(meta["choices"]) + (", or package.module:name" if meta["or_path"] else "")
    bounds = [
        f"{word} {meta[key]:g}"
        for key, word in (("low", ">="), ("above", ">"), ("high", "<="))
        if meta[key] is not None
    ]
    return " ".join([_WORDS[str(spec.type)], " and ".join(bounds)]).strip()


def coerce(spec: Field[Any], name: str, value: object) -> Any:
    """Check one value against its declaration; ints pass as floats, numbers as text, one text as a list of it.

    Raises:
        SettingError: it has the wrong type, or is out of range.
    """
    kind, depth = _LISTS.get(str(spec.type), (str(spec.type), 0))
    try:
        result = _listed(kind, depth, _parsed(value)) if depth else _scalar(kind, value)
    except (ValueError, TypeError):
        raise SettingError(name, value, allowed(spec)) from None
    if not all(_in_range(spec, item) for item in (result if depth == 1 else [result])):
        raise SettingError(name, value, allowed(spec))
    if depth and spec.metadata["choices"] and not result:
        raise SettingError(name, value, allowed(spec))
    if spec.type == "NumberPairs" and not all(len(pair) == len(("value", "share")) for pair in result):
        raise SettingError(name, value, allowed(spec))
    return result


def plain(value: object, kind: str = "Texts") -> Plain:
    """A setting's value for YAML and JSON: lists as such, but a list of at most one text as that text."""
    if not isinstance(value, tuple):
        return value
    if kind == "Texts" and len(value) <= 1:
        return value[0] if value else ""
    return [list(item) if isinstance(item, tuple) else item for item in value]


def _parsed(value: object) -> object:
    """The list that a value is, or stands for: JSON text where there are no lists, as in Flower's run config."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        return json.loads(value)
    return value


def _listed(kind: str, depth: int, value: object) -> Any:
    if depth == 0:
        return _scalar(kind, value)
    if depth == 1 and isinstance(value, (str, int, float)):
        # One item stands for a list of it, and no text for none.
        value = [] if value == "" else [value]
    if not isinstance(value, (list, tuple)):
        raise TypeError
    return tuple(_listed(kind, depth - 1, item) for item in value)


def _scalar(kind: str, value: object) -> Any:
    if not _KINDS[kind](value):
        raise TypeError
    return _CASTS[kind](value)


def _in_range(spec: Field[Any], value: Any) -> bool:
    meta = spec.metadata
    if meta["choices"]:
        return value in meta["choices"] or (meta["or_path"] and ":" in value)
    low, above, high = meta["low"], meta["above"], meta["high"]
    return (low is None or value >= low) and (above is None or value > above) and (high is None or value <= high)
