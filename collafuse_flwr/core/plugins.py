"""What others add from outside: objects at package.module:name, and entry points of installed packages."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

from collafuse_flwr.core.errors import SettingError

T = TypeVar("T")


def load_object(setting: str, path: str) -> Any:
    """The object at package.module:name, which a setting names; `name` may have dots.

    Raises:
        SettingError: there is none.
    """
    allowed = "package.module:name of something that can be imported"
    if not all(path.partition(":")):
        raise SettingError(setting, path, f"{allowed} (both sides of the colon are needed)")
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingError(setting, path, f"{allowed} ({' '.join(str(error).split())})") from error


def load_instance(setting: str, path: str, kind: type[T]) -> T:
    """The object of a type at package.module:name.

    Raises:
        SettingError: there is none, or it is of another type.
    """
    plugin = load_object(setting, path)
    if not isinstance(plugin, kind):
        article = "an" if kind.__name__[0] in "AEIO" else "a"
        raise SettingError(setting, path, f"{article} {kind.__name__}, not {type(plugin).__name__}")
    return plugin


def call_factory(setting: str, path: str, argument: object, kind: type[T], described: str) -> T:
    """What the callable at package.module:factory makes of an argument; a mistake within it shows its traceback.

    Args:
        setting: whose value `path` is.
        path: of the callable.
        argument: its one argument.
        kind: what it must return.
        described: the same in words, as "a torch module".

    Raises:
        SettingError: there is none, it is not callable, or returns something else.
    """
    factory: Callable[[object], object] = load_object(setting, path)
    if not callable(factory):
        raise SettingError(setting, path, f"the factory must be callable, not {type(factory).__name__}")
    product = factory(argument)
    if not isinstance(product, kind):
        raise SettingError(setting, path, f"the factory must return {described}, not {type(product).__name__}")
    return product


def installed(group: str, kind: type[T]) -> list[T]:
    """The objects that installed packages offer as entry points of a group, in the order of their names.

    Raises:
        SettingError: one cannot be imported, or is of another type.
    """
    points = sorted(entry_points(group=group), key=lambda point: point.name)
    return [load_instance(f"entry point {point.name} of {group}", point.value, kind) for point in points]
