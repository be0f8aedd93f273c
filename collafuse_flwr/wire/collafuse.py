"""CollaFuse's messages: nothing flows back in training, and no field holds a client's weights."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import ArrayRecord
from torch import Tensor

from collafuse_flwr.privacy.release import Upload
from collafuse_flwr.wire.codec import Metrics
from collafuse_flwr.wire.common import TrainMetrics


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """One round's work: whether to upload, and the backbone's weights when the client starts from them.

    The weights are one object for all clients: a copy for each would be gigabytes where there are a thousand.
    `held_cut` is the cut step of the samples that the server has of a client that moves its cut (None: it has none).
    """

    round: int
    num_rounds: int
    want_upload: bool
    backbone: ArrayRecord | None = None
    held_cut: int | None = None


@dataclass(frozen=True)
class CutReport(Metrics):
    """The cut step of a client that moves its cut, in the round of its reply."""

    cut: int


@dataclass(frozen=True, kw_only=True)
class TrainReply:
    """A client's answer to a TrainRequest; the upload, at the cut of `recut`, is checked apart (`check_upload`)."""

    metrics: TrainMetrics
    upload: Upload | None = None
    recut: CutReport | None = None


@dataclass(frozen=True, kw_only=True)
class SampleHandoff:
    """Samples at the client's cut for it to finish; labels where the backbone was conditioned on them.

    `cut_step` names the cut of a client that moves it. `backbone` is for a client that chooses where it takes over: its
    samples are noise, at T, and it makes every step itself, so that no message says where the networks change.
    """

    round: int
    x_k: Tensor
    labels: Tensor | None = None
    cut_step: int | None = None
    backbone: ArrayRecord | None = None
