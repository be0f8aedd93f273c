"""Settings of the cut, of what crosses it, and of differential privacy."""

from __future__ import annotations

import math
from dataclasses import dataclass

from collafuse_flwr.core.fields import Numbers, setting

#: The least noise of DP-SGD: below it epsilon is in the millions, after a single step of all images.
MIN_NOISE_MULTIPLIER = 0.01
#: The least norm to which updates of weights are clipped, beside float32's rounding of them.
MIN_CLIP_NORM = 1e-6
#: What a cut may be limited by, and the range of `cut.target`.
CRITERIA = {
    "snr_db": (-math.inf, math.inf),
    "bits": (0.0, math.inf),
    "epsilon": (0.0, math.inf),
    "reid": (0.0, 1.0),
}
#: Who says where a client cuts (see `client.cut_policies`).
CUT_POLICIES = ("fixed", "by_device", "by_disclosure", "adaptive")
_ADAPTIVE: tuple[dict[str, object], ...] = ({"cut.policy": "adaptive"},)
_LIMITED: tuple[dict[str, object], ...] = tuple({"cut.criterion": name} for name in CRITERIA)


@dataclass(frozen=True)
class CutConfig:
    """Where the diffusion process is cut."""

    cut_ratio: float = setting(0.2, "c, the clients' share of the T steps", low=0, high=1, top=True)
    policy: str = setting(
        "fixed",
        "where clients cut: where the settings say; at the largest cut whose rounds take its device `cut.target` "
        "seconds; at the smallest that keeps to `cut.criterion`; or, moving, where its work is worth most",
        choices=CUT_POLICIES,
    )
    client_ratios: Numbers = setting(
        (), "a cut ratio for each client, as [0.1,0.3]; empty: `cut_ratio` for all", when=({"cut.policy": "fixed"},)
    )
    criterion: str = setting(
        "none",
        "what an image's uploads may disclose: SNR, bits, epsilon, or the share of images that is re-identified",
        choices=("none", *CRITERIA),
        when=({"cut.policy": "by_disclosure"}, *_ADAPTIVE),
    )
    target: float = setting(
        0.0,
        "the limit of `cut.criterion`, or of `cut.policy` = by_device in seconds",
        when=(*_LIMITED, {"cut.policy": "by_device"}),
    )
    choices: Numbers = setting(
        (0.2, 0.4, 0.6), "cut ratios that a client may move between; it begins at the largest", when=_ADAPTIVE
    )
    warmup_rounds: int = setting(
        1, "rounds of training at the largest cut before others are tried", low=0, when=_ADAPTIVE
    )
    exploration_rounds: int = setting(
        0, "rounds of training in which cuts are tried; 0: as few as there can be", low=0, when=_ADAPTIVE
    )
    second_scale: float = setting(1.0, "seconds of a client that cost 1", above=0, when=_ADAPTIVE)
    mb_scale: float = setting(1.0, "MB to and from a client that cost 1", above=0, when=_ADAPTIVE)


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


@dataclass(frozen=True)
class AveragingConfig:
    """Averages of the clients' denoisers: clipped and noised updates (DP-FedAvg), and what comes after the last one."""

    clip_norm: float = setting(
        0.0, "L2 norm to which a client clips its update of the weights; 0: none", low=0, high=1e6
    )
    noise: str = setting(
        "none",
        "who noises clipped updates: each client its own, or the server their sum, which it has seen",
        choices=("none", "client", "server"),
    )
    noise_multiplier: float = setting(
        1.0,
        "standard deviation of that noise, in multiples of `averaging.clip_norm`",
        low=MIN_NOISE_MULTIPLIER,
        high=1e4,
        when=({"averaging.noise": "client"}, {"averaging.noise": "server"}),
    )
    finetune_epochs: float = setting(
        0.0,
        "passes over its own images by which each client trains the last average further, for itself; 0: none",
        low=0,
    )
