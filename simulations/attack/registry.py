"""All attacks: those of this package, of installed packages, and at package.module:ATTACK; and their settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.fields import allowed, coerce
from collafuse_flwr.core.plugins import installed, load_instance
from simulations.attack import attacks
from simulations.attack.spec import AttackSpec

#: Entry points of installed packages.
GROUP = "collafuse_flwr.attacks"
#: Settings of the command itself.
OWN = ("run", "attacks", "seed", "output")


@cache
def built_in() -> tuple[AttackSpec, ...]:
    """The attacks of this package, by the name of their module."""
    names = sorted(module.name for module in iter_modules(attacks.__path__))
    return tuple(import_module(f"{attacks.__name__}.{name}").ATTACK for name in names)


def attack_specs(paths: Iterable[str] = ()) -> tuple[AttackSpec, ...]:
    """Every attack, with those at some paths.

    Raises:
        SettingError: one cannot be imported, is none, or takes a name that another has.
    """
    others = (*installed(GROUP, AttackSpec), *(load_instance("attacks", path, AttackSpec) for path in paths))
    specs = list(built_in())
    for spec in others:
        if spec in specs:
            continue
        for what, used, own in (
            ("name", {one.name for one in specs}, {spec.name}),
            ("number", {column.key for one in specs for column in one.columns}, {c.key for c in spec.columns}),
            ("setting", {*OWN, *effort(specs)}, set(effort([spec]))),
        ):
            if twice := sorted(used & own):
                raise SettingError("attacks", spec.name, f"an attack whose {what} no other has, unlike {twice[0]!r}")
        specs.append(spec)
    return tuple(specs)


def effort(specs: Iterable[AttackSpec]) -> dict[str, Any]:
    """The settings of some attacks, and their defaults.

    Raises:
        SettingError: they are not declared as settings are.
    """
    every: dict[str, Any] = {}
    for spec in specs:
        for field in fields(spec.settings) if spec.settings else ():
            if not isinstance(field.type, str) or "about" not in field.metadata:
                wanted = "settings declared by `collafuse_flwr.core.fields.setting`, with `annotations` from __future__"
                raise SettingError("attacks", spec.name, f"an attack with {wanted}, unlike {field.name!r}")
            every[field.name] = field.default
    return every


def describe(specs: Iterable[AttackSpec]) -> list[str]:
    """A line about each attack's settings."""
    return [
        f"  {field.name}={field.default}: {field.metadata['about']} ({allowed(field)}) [{spec.name}]"
        for spec in specs
        for field in (fields(spec.settings) if spec.settings else ())
    ]


def settings_of(spec: AttackSpec, values: Mapping[str, Any]) -> Any:
    """An attack's settings, checked; None of one that has none.

    Raises:
        SettingError: one has the wrong type, or is out of range.
    """
    if spec.settings is None:
        return None
    declared = fields(spec.settings)
    return spec.settings(**{field.name: coerce(field, field.name, values[field.name]) for field in declared})
