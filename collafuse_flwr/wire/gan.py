"""The messages of GANs whose nets are whole: FedGAN, which averages them, and MD-GAN, whose server has the generator.

What goes up is the gradient at fake images, and weights. Fake images and their labels go down; those of real images
have no field here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from collafuse_flwr.gan.split_gan.ops import Tensors
from collafuse_flwr.wire.fedavg import Weights, pack_named_weights, received_weights
from collafuse_flwr.wire.split_gan import received_tensors, with_tensors


@dataclass(frozen=True)
class GanWorkRequest:
    """Work on weights (empty: the client's own): `count` batches to train on (FedGAN), or samples to make.

    MD-GAN's clients, to whom it says that a round is over, have trained before.
    """

    round: int
    count: int
    weights: Weights


@dataclass(frozen=True)
class DiscriminatorFeedbackRequest:
    """One iteration of MD-GAN: fake images to judge, and to learn from, with their labels.

    `fake` holds x_g, the batch to judge, and x_d, the one to learn from, unless that is the same; `labels` has int64
    (n,) for each. `step` counts the iterations of the round. `weights` is the discriminator to begin the round with,
    where it came from another client.
    """

    round: int
    step: int
    fake: Tensors
    labels: Tensors
    weights: Weights


def pack_gan_work_request(request: GanWorkRequest) -> RecordDict:
    """A GanWorkRequest as records."""
    record = ConfigRecord({"round": request.round, "count": request.count})
    return pack_named_weights(RecordDict({"request": record}), weights=request.weights)


def unpack_gan_work_request(content: RecordDict) -> GanWorkRequest:
    """Read a GanWorkRequest back (on the client)."""
    config = content.config_records["request"]
    numbers = int(cast(int, config["round"])), int(cast(int, config["count"]))
    return GanWorkRequest(*numbers, received_weights(content, "weights"))


def pack_feedback_request(request: DiscriminatorFeedbackRequest, dtype: str) -> RecordDict:
    """A DiscriminatorFeedbackRequest as records, images in `dtype`."""
    record = ConfigRecord({"round": request.round, "step": request.step})
    content = with_tensors(RecordDict({"request": record}), request.fake, dtype)
    content["labels"] = ArrayRecord({name: Array(labels.numpy()) for name, labels in request.labels.items()})
    return pack_named_weights(content, weights=request.weights)


def unpack_feedback_request(content: RecordDict) -> DiscriminatorFeedbackRequest:
    """Read a DiscriminatorFeedbackRequest back (on the client)."""
    config = content.config_records["request"]
    labels = {name: torch.from_numpy(array.numpy().copy()) for name, array in content.array_records["labels"].items()}
    return DiscriminatorFeedbackRequest(
        round=int(cast(int, config["round"])),
        step=int(cast(int, config["step"])),
        fake=received_tensors(content),
        labels=labels,
        weights=received_weights(content, "weights"),
    )
