"""Attacks on a finished simulation: `python -m simulations.attack run=runs/...`.

Measures what can be made of all that its server received and of its networks, and leaves attacks.json, the leakage
card (leakage.png) and the images that are reconstructed best (reconstructions.png) in `output`.
"""

from __future__ import annotations

import sys
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from simulations.attack.run import AttackRequest, attack_run
from simulations.cli import entry


def _act(settings: DictConfig) -> None:
    request = AttackRequest.of(cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True)))
    attack_run(request, Console(highlight=False))


main = entry(_act, "attack")

if __name__ == "__main__":
    sys.exit(main())
