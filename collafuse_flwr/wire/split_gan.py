"""The messages of the split GAN (HuSCF-GAN): activations and gradients at the cuts, and a client's own blocks.

Labels and images have no field here, and neither have latent codes.
"""

from __future__ import annotations

from dataclasses import dataclass

from collafuse_flwr.wire.codec import Activations, Metrics, Weights


@dataclass(frozen=True)
class SplitRequest:
    """One phase of one batch: its tensors, and at the start of a round the client's cuts and new weights.

    With the weights come moments (gan/split_gan/block_moments.py) of blocks that it takes from the server.
    `step` counts the batches of the round; `phase` is one of gan/split_gan/ops.py.
    """

    round: int
    step: int
    phase: str
    cuts: str
    activations: Activations
    weights: Weights


@dataclass(frozen=True)
class ActivationsReply:
    """What a client answers to a phase, what its generator's head makes of codes and labels, or MD-GAN's gradient.

    Names and shapes are checked apart, by `check_activations`.
    """

    activations: Activations


@dataclass(frozen=True)
class EndRoundRequest:
    """The end of a round: the last gradient that is due, unless there is none; the next round's cuts, if they move."""

    round: int
    cuts: str
    activations: Activations
    next_cuts: str | None = None


@dataclass(frozen=True)
class GanTrainMetrics(Metrics):
    """What a client says about a round: losses of its last batch, work, seconds, floating-point operations.

    None is what the owner of its images keeps to itself.
    """

    loss: float | None
    generator_loss: float | None
    steps: int
    image_updates: int
    seconds: float | None
    flops: int


@dataclass(frozen=True)
class EndRoundReply:
    """The end of a round: numbers, and the client's blocks to be averaged (see `check_weights`).

    With them come the moments of those that it leaves to the server from the next round on.
    """

    metrics: GanTrainMetrics
    weights: Weights


@dataclass(frozen=True)
class GenerateHeadRequest:
    """For samples: how many, and the weights of the client's blocks of the generator to make them with."""

    round: int
    count: int
    cuts: str
    weights: Weights


@dataclass(frozen=True)
class GenerateTailRequest:
    """The server's half of samples, `gt`, for the client to finish."""

    round: int
    cuts: str
    activations: Activations
