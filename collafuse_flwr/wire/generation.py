"""The messages of generating after training: what clients want, and samples to finish; images never travel."""

from __future__ import annotations

from dataclasses import dataclass

from collafuse_flwr.wire.codec import Metrics
from collafuse_flwr.wire.collafuse import SampleHandoff

#: The two hand-overs of a generating run: what its operator wants for a client, and what the client wants for itself.
OPERATORS, CLIENTS_OWN = 1, 2


@dataclass(frozen=True)
class WantedRequest:
    """A question, which holds nothing, what a client wants for itself."""


@dataclass(frozen=True)
class ImagesWanted(Metrics):
    """What a client wants for itself: `num_images` (0: nothing) of a class (-1: of all, or kept to itself)."""

    num_images: int = 0
    label: int = -1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class GenerateHandoff(SampleHandoff):
    """Samples at the client's cut for it to finish and keep; `round` is OPERATORS or CLIENTS_OWN.

    `label` is the class of all, or -1; `guidance` weighs the condition in the client's half, `seed` names its noise.
    """

    label: int
    guidance: float
    seed: int


@dataclass(frozen=True)
class Generated(Metrics):
    """That a client has finished so many images, which is all that it says."""

    num_images: int
