"""What handed-over samples are conditioned on, and their classes: the server's word, or drawn here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.data.images import ImageSet, normalize
from collafuse_flwr.diffusion.forward import add_noise
from collafuse_flwr.diffusion.schedule import Schedule
from collafuse_flwr.setup.privacy import clip
from collafuse_flwr.wire.collafuse import SampleHandoff

PROBE_ITERATIONS = 200
#: The class of a sample with attributes that no image of the client has.
UNKNOWN = -1
#: The least variance of the noise at a cut: at the cut 0 the nearest image is taken.
LEAST_NOISE = 1e-9


@dataclass(frozen=True)
class SampleConditioning:
    """What is known of n samples: the class of each, int64 (n,), and the labels that they are conditioned on.

    `labels` are the classes, attributes, uint8 (n, A), or None, as `data.conditioning` says.
    """

    classes: Tensor
    labels: Tensor | None

    @property
    def attributes(self) -> Tensor | None:
        """The labels, if they are attributes."""
        return None if self.labels is None or self.labels.ndim == 1 else self.labels


def condition_samples(
    config: Config, schedule: Schedule, cut: int, images: ImageSet, handoff: SampleHandoff, generator: torch.Generator
) -> SampleConditioning:
    """The labels that the server conditioned on; where it did not, labels drawn by what is seen of each sample.

    Attributes are drawn as those of a training image, whose class the sample has too. Attributes that the server drew
    have no class of their own: it is that of a random training image with exactly these, or UNKNOWN.

    Args:
        config: the settings.
        schedule: the global schedule.
        cut: k.
        images: the client's training images.
        handoff: samples, and labels if the backbone was conditioned on them.
        generator: draws what the server did not.
    """
    if config.data.conditioning != "attributes":
        classes = handoff.labels
        if classes is None:
            classes = draw_labels(schedule, cut, images, handoff.x_k, generator)
        return SampleConditioning(classes, classes if config.data.conditioning == "classes" else None)
    attributes = images.metadata.attributes
    assert attributes is not None, "the client would not have introduced itself"
    if handoff.labels is not None:
        return SampleConditioning(_classes_of(handoff.labels, attributes, images.labels, generator), handoff.labels)
    x_0 = clip(config, normalize(images.images))
    rows = sample_posterior_rows(schedule, cut, x_0, handoff.x_k, generator)
    return SampleConditioning(images.labels[rows], attributes[rows])


def sample_posterior_rows(schedule: Schedule, cut: int, x_0: Tensor, x_k: Tensor, generator: torch.Generator) -> Tensor:
    """Draw i ~ p(i | x_k), with x_k an image x_0[i], each as likely as any other, noised to the cut.

    p(i | x_k) is proportional to exp((s x_0[i] . x_k - s^2 |x_0[i]|^2 / 2) / (1 - s^2)) with s^2 = alpha_bar[k].

    Args:
        schedule: the global schedule.
        cut: k.
        x_0: images, shape (N, channels, size, size).
        x_k: samples, shape (n, channels, size, size).
        generator: draws the rows.

    Returns:
        Rows of x_0, shape (n,), int64.
    """
    alpha_bar = float(schedule.alpha_bar[cut])
    seen = alpha_bar**0.5 * x_0.flatten(1).double()
    matched = x_k.flatten(1).double() @ seen.T - seen.square().sum(dim=1) / 2
    return torch.multinomial((matched / max(1 - alpha_bar, LEAST_NOISE)).softmax(1), 1, generator=generator).squeeze(1)


def _classes_of(requested: Tensor, attributes: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """The class of a random image with a row of `requested`, (n, A), as its attributes, (N, A), or UNKNOWN: (n,)."""
    ones, held = requested.float(), attributes.float()
    same = ones @ held.T + (1 - ones) @ (1 - held).T == attributes.shape[1]
    matched = same.any(dim=1)
    rows = torch.multinomial(same.float() + ~matched[:, None], 1, generator=generator).squeeze(1)
    return torch.where(matched, classes[rows], UNKNOWN)


def draw_labels(schedule: Schedule, cut: int, images: ImageSet, x_k: Tensor, generator: torch.Generator) -> Tensor:
    """Draw y ~ p(y | x_k) for samples of an unconditional backbone, with a probe on the client's own noised images.

    An unconditional x_k already is of some class; a label drawn apart from it would contradict it. At the cut T it is
    pure noise, and labels follow the client's own frequencies.

    Args:
        schedule: the global schedule.
        cut: k.
        images: the client's training images.
        x_k: samples, shape (n, channels, size, size).
        generator: draws the probe's noise and the labels.

    Returns:
        Labels, shape (n,), int64.
    """
    if cut == schedule.timesteps or int(images.labels.min()) == int(images.labels.max()):
        rows = torch.randint(0, len(images), (len(x_k),), generator=generator)
        return images.labels[rows]
    # Slow to import, for a deployed client at every message, and most runs share their labels.
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    x_0 = normalize(images.images)
    noise = torch.randn(x_0.shape, generator=generator)
    zeros = torch.zeros(len(x_0), dtype=torch.int64)
    noised = add_noise(schedule, x_0, zeros, zeros + cut, noise)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=PROBE_ITERATIONS, C=0.1))
    probe.fit(noised.flatten(1).numpy(), images.labels.numpy())
    probabilities = torch.from_numpy(probe.predict_proba(x_k.flatten(1).numpy()))
    drawn = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
    return torch.from_numpy(np.asarray(probe.classes_, dtype=np.int64))[drawn]
