"""Attacks on a finished simulation: `python -m simulations.attack run=runs/...`.

Measures what can be made of all that its server received and of its networks, and leaves attacks.json, the leakage
card (leakage.png) and the images that are reconstructed best (reconstructions.png) in `output`. Others' attacks come
with packages that are installed (entry points of collafuse_flwr.attacks), or by `attacks=[package.module:ATTACK]`.
"""

from __future__ import annotations

import sys
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from collafuse_flwr.core.errors import SettingError
from simulations.attack.registry import attack_specs, describe, effort
from simulations.attack.run import AttackRequest, attack_run
from simulations.cli import entry


def _paths(arguments: list[str]) -> list[str]:
    """Others' attacks among the arguments: they bring settings, which the other arguments may be."""
    attacks = [argument for argument in arguments if argument.startswith("attacks=")]
    value = OverridesParser.create().parse_override(attacks[-1]).value() if attacks else []
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise SettingError("attacks", value, "a list of package.module:ATTACK")
    return [path for path in paths if path]


def _prepare(arguments: list[str]) -> None:
    ConfigStore.instance().store(name="attack_schema", node=effort(attack_specs(_paths(arguments))))


def _act(settings: DictConfig) -> None:
    request = cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True))
    paths = [request["attacks"]] if isinstance(request["attacks"], str) else request["attacks"]
    attack_run(AttackRequest.of(request, attack_specs(path for path in paths if path)), Console(highlight=False))


def _usage(arguments: list[str]) -> str:
    specs = attack_specs(_paths(arguments))
    own = [
        "run=: the folder of a finished simulation",
        "attacks=[]: others' attacks, as package.module:ATTACK",
        "seed=0: of everything that is drawn",
        "output=: where results go; empty: attacks in the run's folder",
    ]
    return "\n".join([f"{__doc__}", *(f"  {line}" for line in own), "", "Of one attack each:", *describe(specs)])


main = entry(_act, "attack", usage=_usage, prepare=_prepare)

if __name__ == "__main__":
    sys.exit(main())
