"""The bits that all releases tell about an image, at most, by the backbone's error above the cut (I-MMSE)."""

from __future__ import annotations

from typing import Any

import torch

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.images import subsample_evenly
from collafuse_flwr.privacy.leakage_bounds import covariance_eigenvalues
from collafuse_flwr.privacy.mutual_information import denoised_bits, denoising_errors
from simulations.attack.server_view import clipped
from simulations.attack.spec import RECEIVED, AttackSpec, Column, Outcome, of_diffusion
from simulations.attack.target import ClientTarget

#: Steps above the cut at which the backbone's error is measured, and images that it is measured on.
ERROR_STEPS, ERROR_IMAGES = 24, 256


def run(target: ClientTarget, _: Any) -> Outcome:
    """Of the same law as the Gaussian bound, that which draws one of the client's training images.

    Of that law any estimate's error on these images is no less than the least, also where the backbone has learnt them
    by heart. Where labels travelled, the bits are those that the image adds to its label.
    """
    seen, finished, cut = target.received, target.run.diffusion, target.cut
    if seen is None or finished.backbone is None or not cut:
        return Outcome()
    process = finished.setup
    device, snr = process.runtime.device, process.schedule.snr()
    steps = torch.linspace(cut + 1, process.schedule.timesteps, ERROR_STEPS).round().long().unique()
    some = subsample_evenly(torch.arange(len(seen.x_0)), ERROR_IMAGES)
    errors = denoising_errors(
        process.schedule,
        process.objective.prediction,
        process.denoise(finished.backbone.eval()),
        seen.x_0[some].to(device),
        steps,
        named_generator(target.run.seed, "bits", target.client),
        None if seen.labels is None else seen.labels[some].to(device),
    )
    eigenvalues = covariance_eigenvalues(clipped(finished, finished.data.partitions[target.client].train))
    return Outcome({"bits_denoised": denoised_bits(seen.releases * float(snr[cut]), eigenvalues, snr[steps], errors)})


ATTACK = AttackSpec(
    "mutual_information",
    "I-MMSE: bits at most by the backbone's errors too, beside the label where that travels.",
    RECEIVED,
    (Column("bits_denoised", "I-MMSE", ".1f", "bits_chance", "bits, I-MMSE", "bits per image", 1),),
    run,
    of_diffusion,
)
