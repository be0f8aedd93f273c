"""What an attack is: its numbers of a client, and how the card, the picture and comparisons of runs show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.data.federated import FederationData
from simulations.attack.target import ClientTarget

#: The unit of columns and panels that are areas under a ROC curve: drawn from 0 to 1, and apart from others.
AUC = "AUC"
#: Images of a client, and of the picture of reconstructions.
SHOWN = 12
#: Tables of the card that several attacks share.
RECEIVED, REBUILT, NETWORKS, ACTIVATIONS = (
    "Attacks on what was received",
    "Images rebuilt (PSNR in dB)",
    "Attacks on networks and samples",
    "Rebuilt from activations",
)


@dataclass(frozen=True)
class Column:
    """A number of a client's row, in the card's table and in the comparison of runs.

    Attributes:
        key: its name in the row, in attacks.json.
        heading: in the card; empty: not there.
        form: how the card writes it.
        chance: the key of its value without information; empty: there is none.
        title: in the comparison of runs; empty: not there.
        axis: what it is there, with its unit.
        digits: after the point, there.
    """

    key: str
    heading: str = ""
    form: str = ".2f"
    chance: str = ""
    title: str = ""
    axis: str = ""
    digits: int = 2


@dataclass(frozen=True)
class Panel:
    """A panel of the picture: series by name in the legend, and the value without information or where it is.

    Panels of one title and unit are one, whichever attacks have them.
    """

    title: str
    unit: str
    series: Mapping[str, str]
    chance: str | float


@dataclass(frozen=True, eq=False)
class BestReconstructions:
    """The images of a client that are reconstructed best: the PSNR of each in dB, and rows of images by name."""

    psnr: Tensor
    rows: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an attack makes of a client: numbers by key, none where it does not apply, and images that it rebuilds."""

    numbers: Mapping[str, Any] = field(default_factory=dict)
    images: BestReconstructions | None = None


def _every(_: Config) -> bool:
    return True


def _nothing(_: Config, __: FederationData, ___: Any) -> None:
    pass


@dataclass(frozen=True)
class AttackSpec:
    """An attack, complete.

    Attributes:
        name: a word.
        about: what the card says below the table, in a sentence or two.
        table: the title of the card's table that its columns are in, one of the above or another.
        columns: its numbers.
        run: what it makes of a client, with its settings.
        applies: whether there is anything to attack in a run of such settings.
        panels: of the picture.
        pictures: rows of rebuilt images, by their name in `BestReconstructions`, and what they are called.
        settings: a dataclass of its settings (see `collafuse_flwr.core.fields`), which say what it costs; None: none.
        check: refuses what would keep a run from being attacked, before it is started.
    """

    name: str
    about: str
    table: str
    columns: tuple[Column, ...]
    run: Callable[[ClientTarget, Any], Outcome]
    applies: Callable[[Config], bool] = _every
    panels: tuple[Panel, ...] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)
    settings: type[Any] | None = None
    check: Callable[[Config, FederationData, Any], None] = _nothing


def of_diffusion(config: Config) -> bool:
    """Whether a run is one of diffusion models."""
    return not config.spec.is_gan


def sends_activations(config: Config) -> bool:
    """Whether clients send what is made of their images."""
    return "activations" in config.spec.sends
