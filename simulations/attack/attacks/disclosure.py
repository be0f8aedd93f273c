"""What a client disclosed by the run's own account: the bounds that attacks are held against."""

from __future__ import annotations

from typing import Any

from simulations.attack.spec import RECEIVED, AttackSpec, Column, Outcome, of_diffusion
from simulations.attack.target import ClientTarget

#: Numbers of the run's summary.
SUMMARISED = ("snr_db", "bits", "dp_epsilon")


def run(target: ClientTarget, _: Any) -> Outcome:
    """The summary's bounds, which are 0 where nothing is received, and the releases of each image."""
    seen = target.received
    numbers = {name: target.summary.get(name) for name in SUMMARISED}
    chances = {"bits_chance": 0.0, "dp_epsilon_chance": 0.0}
    return Outcome({**numbers, **chances, "releases": 0 if seen is None else seen.releases})


ATTACK = AttackSpec(
    "disclosure",
    "bits: at most so many are disclosed of an image, by its covariance; sent: releases of each image.",
    RECEIVED,
    (
        Column("snr_db", "SNR dB", ".1f", title="SNR of a release", axis="dB", digits=1),
        Column("bits", "bits", ".1f", "bits_chance", "bits, Gaussian", "bits per image", 1),
        Column("dp_epsilon", "eps", ".4g", "dp_epsilon_chance", "epsilon", "epsilon", 1),
        Column("releases", "sent", "d"),
    ),
    run,
    of_diffusion,
)
