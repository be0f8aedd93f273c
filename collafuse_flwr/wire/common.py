"""The messages of every strategy: a client's introduction, and what it says about its samples."""

from __future__ import annotations

from dataclasses import dataclass

from collafuse_flwr.wire.codec import Metrics, Unbounded


@dataclass(frozen=True)
class ClientInfoRequest:
    """A question that opens a run, and holds nothing."""


@dataclass(frozen=True)
class ClientInfo(Metrics):
    """A client's introduction; its cut step is agreed here: for the whole run, or to begin with.

    `num_attributes` are those that networks are conditioned on: 0 unless `data.conditioning` is attributes.
    """

    partition_id: int
    cut_step: int
    timesteps: int
    num_images: int
    channels: int
    size: int
    num_classes: int
    num_attributes: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Channels and side of the images, classes, and attributes."""
        return self.channels, self.size, self.num_classes, self.num_attributes


@dataclass(frozen=True)
class TrainMetrics(Metrics):
    """What a client says about its training: mean loss (0 without steps), work, seconds, floating-point operations.

    None is what the owner of its images keeps to itself.
    """

    loss: float | None
    steps: int
    image_updates: int
    seconds: float | None
    flops: int


@dataclass(frozen=True, kw_only=True)
class EvaluateReply(Metrics):
    """What a client says about its finished samples and its held-out images.

    `held_out_loss` is its denoiser's loss there (0 if it has none), `kernel_distance` that of pixels between its
    samples and its held-out images (unbiased; 0 if either is a single image), `flops_per_image` what one image cost it
    to finish, and `bits` the Gaussian bound on what was released tells (may be infinite). None is what the owner of its
    images keeps to itself.

    `tuned_updates` are the image updates after the last average, and `tuned_flops` their floating-point operations.

    The rest is from its ledger, of everything that ever left it, in any run: `releases` of an image with noise of their
    own, their `release_mu`, `dp_steps` of DP-SGD, their `dp_sgd_epsilon`, `dp_total_epsilon` of everything for one
    image, and `dp_client_epsilon` of noised weights for all images of the client together.
    """

    num_samples: int
    kernel_distance: float | None
    seconds: float | None
    flops_per_image: int
    bits: Unbounded | None
    held_out_loss: float | None = 0.0
    releases: int = 0
    release_mu: Unbounded = 0.0
    dp_steps: int = 0
    dp_sgd_epsilon: Unbounded = 0.0
    dp_total_epsilon: Unbounded = 0.0
    dp_client_epsilon: Unbounded = 0.0
    tuned_updates: int = 0
    tuned_flops: int = 0
