"""Settings of the cut, of what crosses it, and of differential privacy."""

from __future__ import annotations

import math
from dataclasses import dataclass

from collafuse_flwr.core.fields import Numbers, setting

#: The least noise of DP-SGD: below it epsilon is in the millions, after a single step of all images.
MIN_NOISE_MULTIPLIER = 0.01
#: What a cut may be chosen by instead of its ratio, and the range of its target.
CRITERIA = {
    "snr_db": (-math.inf, math.inf),
    "bits": (0.0, math.inf),
    "epsilon": (0.0, math.inf),
    "reid": (0.0, 1.0),
    "seconds": (0.0, math.inf),
}


@dataclass(frozen=True)
class CutConfig:
    """Where the diffusion process is cut."""

    cut_ratio: float = setting(0.2, "c, the clients' share of the T steps", low=0, high=1, top=True)
    client_ratios: Numbers = setting(
        (), "a cut ratio for each client, as [0.1,0.3]; empty: `cut_ratio` for all", when=({"cut.criterion": "none"},)
    )
    criterion: str = setting(
        "none",
        "each client's cut is the smallest whose uploads of an image keep to `cut.target` in SNR, bits, epsilon or the "
        "share of images that is re-identified, or the largest that its device trains in so many seconds a round",
        choices=("none", *CRITERIA),
    )
    target: float = setting(
        0.0, "the limit of `cut.criterion`", when=tuple({"cut.criterion": name} for name in CRITERIA)
    )


@dataclass(frozen=True)
class UploadConfig:
    """What a client uploads of its images."""

    noise: str = setting("fixed", "an image's noise in later rounds", choices=("fixed", "resampled", "official"))
    draws_per_image: int = setting(1, "noised copies of each image in a release", low=1)
    max_releases: int = setting(0, "noised copies of an image that may ever leave a client; 0: no limit", low=0)
    dtype: str = setting("int8", "precision of uploads", choices=("int8", "float16", "float32"))
    share_labels: bool = setting(True, "what images are conditioned on travels with the uploads")
    clip_norm: float = setting(
        0.0, "L2 norm to which images are clipped before they are noised; 0: none, or pfdm's own", low=0
    )


@dataclass(frozen=True)
class DpConfig:
    """Differential privacy."""

    noise_multiplier: float = setting(
        0.0, "DP-SGD of the clients' denoisers: its noise, in multiples of `dp.max_grad_norm`; 0: none", low=0, high=1e4
    )
    max_grad_norm: float = setting(1.0, "L2 norm to which DP-SGD clips the gradient of an image", low=1e-6, high=1e6)
    delta: float = setting(1e-5, "delta at which epsilon is reported", above=0, high=0.5)
