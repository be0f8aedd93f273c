"""Where collaboration would pay: `python -m simulations.advise images=20,60 cuts=0.3,0.6 [SETTING=VALUE ...]`.

Small runs before a real one: for each number of images that a client has, a federation at each cut, and every client
alone, which has as many image updates as clients and server together. Prints and draws the map of both: how the
clients' distances compare with those alone, how many clients gain, and how many images are re-identified.

  images    training images of a client, a value for each row of the map
  cuts      cut ratios between 0 and 1, one for each column
  max_reid  share of re-identified images, of the client that shows most, up to which a cut hides
  output    folder of the runs and the map; the same command with it goes on

All other settings are those of simulations.run and replace the map's own, also `strategy`, one of those with a cut.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from collafuse_flwr.config.config import Config, without_unread
from collafuse_flwr.core.errors import RunFailed, SettingError, UserError
from collafuse_flwr.data.federated import federation_data
from simulations.advice_map import advice, draw_map, print_map, read_cells, save_map
from simulations.cli import FAILED, command, flat_settings, fresh_folder
from simulations.suite import run_module
from simulations.sweep.sweep import compositions

#: Settings of its own, all of which have a default.
OWN = {"images": "20,60,140", "cuts": "0.3,0.5,0.7,0.9", "max_reid": "0.1", "output": ""}
#: What the small runs have unless it is given.
SETTINGS = {
    "strategy": "collafuse",
    "num_supernodes": "10",
    "num_rounds": "6",
    "train.local_epochs": "4",
    "model": "nano",
    "runner": "local",
    "client.batch_size": "8",
    "server.batch_size": "32",
    "evaluation.num_samples": "400",
    "evaluation.tstr": "none",
    "sampling.steps": "20",
}
Number = TypeVar("Number", int, float)
#: Share by which a row may miss the images that it is for.
NEAR = 0.1


@dataclass(frozen=True)
class AdviceRequest:
    """What the map is of, and where it goes."""

    images: tuple[int, ...]
    cuts: tuple[float, ...]
    max_reid: float
    output: Path
    settings: tuple[str, ...]
    num_supernodes: int
    holdout_fraction: float

    @classmethod
    def of(cls, arguments: Sequence[str]) -> AdviceRequest:
        """Of the command's arguments.

        Raises:
            UserError: one is not allowed.
        """
        named = dict(_named(argument) for argument in arguments)
        own = {name: named.pop(name, default) for name, default in OWN.items()}
        settings = tuple(f"{name}={value}" for name, value in (SETTINGS | named).items())
        for name in ("cut_ratio", "data.max_images"):
            if name in named:
                raise SettingError(name, named[name], f"given as `{'cuts' if name == 'cut_ratio' else 'images'}`")
        config = first_config([*settings, f"cut_ratio={own['cuts'].split(',')[0]}"])
        if config.spec.fixed_cut is not None:
            raise SettingError("strategy", config.run.strategy, "one whose clients have a cut, as collafuse")
        images = _values("images", own["images"], int, lambda n: n >= 1, "whole numbers >= 1, with commas")
        cuts = _values("cuts", own["cuts"], float, lambda c: 0 < c < 1, "numbers between 0 and 1, with commas")
        allowed = "a share from 0 to 1"
        (max_reid,) = _values("max_reid", own["max_reid"], float, lambda share: 0 <= share <= 1, allowed)
        output = Path(own["output"]).absolute() if own["output"] else Path(f"{fresh_folder(config)}-advice")
        return cls(images, cuts, max_reid, output, settings, config.run.num_supernodes, config.data.holdout_fraction)

    def folder(self, images: int) -> Path:
        """Where the runs of a row lie."""
        return self.output / f"images-{images}"

    def sweep(self, images: int) -> list[str]:
        """The arguments of `simulations.sweep` for a row: every cut, and every client alone."""
        return [
            *(f"{text},local" if text.startswith("strategy=") else text for text in self.settings),
            f"cut_ratio={','.join(f'{cut:g}' for cut in self.cuts)}",
            f"data.max_images={self._all_images(images)}",
            f"output={self.folder(images)}",
        ]

    def check(self, images: int) -> None:
        """Find before anything runs that the data set has too few images for a row.

        Raises:
            UserError: it has, or the images cannot be read.
        """
        total = f"data.max_images={self._all_images(images)}"
        config = first_config([*self.settings, f"cut_ratio={self.cuts[0]:g}", total])
        partitions = federation_data(config.data, config.run.num_supernodes, config.run.seed).partitions
        mean = sum(len(own.train) for own in partitions) / len(partitions)
        if mean < (1 - NEAR) * images:
            allowed = f"at most {int(mean)} for each of {len(partitions)} clients of these images"
            raise SettingError("images", images, allowed)

    def _all_images(self, images: int) -> int:
        return math.ceil(images * self.num_supernodes / (1 - self.holdout_fraction))


def first_config(arguments: list[str]) -> Config:
    """The settings of the first run of a sweep."""
    return Config.from_flat(without_unread(flat_settings(compositions(arguments)[0])))


def _named(argument: str) -> tuple[str, str]:
    name, separator, value = argument.partition("=")
    if not separator:
        raise UserError(f"`{argument}` is not SETTING=VALUE")
    return name, value


def _values(
    name: str, text: str, kind: Callable[[str], Number], allowed: Callable[[Number], bool], described: str
) -> tuple[Number, ...]:
    try:
        values = tuple(sorted({kind(part) for part in text.split(",")}))
    except ValueError:
        raise SettingError(name, text, described) from None
    if not all(map(allowed, values)):
        raise SettingError(name, text, described)
    return values


def run_advice(arguments: list[str]) -> int:
    """Run the small runs, and print, draw and keep the map; the exit status.

    Raises:
        UserError: a setting is not allowed.
        RunFailed: nothing ran to its end.
    """
    request = AdviceRequest.of(arguments)
    for images in request.images:
        request.check(images)
    failed = [images for images in request.images if run_module("simulations.sweep", *request.sweep(images))]
    every = [cell for images in request.images for cell in read_cells(request.folder(images), images, request.cuts)]
    if not every:
        raise RunFailed(f"no run in {request.output} came to its end")
    console, sentence = Console(highlight=False), advice(every, request.max_reid)
    print_map(every, console)
    console.print(sentence, markup=False, soft_wrap=True)
    draw_map(every, request.max_reid, request.output / "advice.png")
    save_map(every, sentence, request.output / "advice.json")
    console.print(f"Everything is in {request.output}", markup=False, soft_wrap=True)
    return FAILED if failed else 0


main = command(run_advice, usage=str(__doc__), going_on="the same command with the same `output` goes on")

if __name__ == "__main__":
    sys.exit(main())
