"""The messages of GANs whose nets are whole: those that average them, and those whose server has the generator.

What goes up is the gradient at fake images, and weights. Fake images and their labels go down; those of real images
have no field here.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from collafuse_flwr.wire.codec import Activations, Weights


@dataclass(frozen=True)
class GanWorkRequest:
    """Work on weights (empty: the client's own): `count` batches to train on (FedGAN), or samples to make.

    Clients of a server with the generator, to whom it says that a round is over, have trained before.
    """

    round: int
    count: int
    weights: Weights


@dataclass(frozen=True)
class SyntheticWorkRequest:
    """A round of PFL-GAN: `count` batches of a client's own images and of synthetic ones of similar clients.

    `synthetic` is uint8, (n, channels, size, size), and `labels` int64, (n,); absent where there are none yet.
    `weights` are those of both nets to begin with; empty: the client's own. `want_generator` requests its generator,
    which no client sends that has ever learnt from synthetic images.
    """

    round: int
    count: int
    want_generator: bool
    weights: Weights
    synthetic: Tensor | None
    labels: Tensor | None


@dataclass(frozen=True)
class DiscriminatorFeedbackRequest:
    """One iteration of a server with the generator: fake images to judge, and to learn from, with their labels.

    `fake` holds x_g, the batch to judge, and x_d, the one to learn from, unless that is the same; `labels` has int64
    (n,) for each. `step` counts the iterations of the round. `weights` is the discriminator to begin the round with,
    where it came from others.
    """

    round: int
    step: int
    fake: Activations
    labels: dict[str, Tensor]
    weights: Weights
