"""CollaFuse's messages: nothing flows back in training, and no field holds a client's weights."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import ArrayRecord
from torch import Tensor

from collafuse_flwr.privacy.release import Upload
from collafuse_flwr.wire.common import TrainMetrics


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """One round's work: whether to upload, and the backbone's weights when the client starts from them.

    The weights are one object for all clients: a copy for each would be gigabytes where there are a thousand.
    """

    round: int
    num_rounds: int
    want_upload: bool
    backbone: ArrayRecord | None = None


@dataclass(frozen=True, kw_only=True)
class TrainReply:
    """A client's answer to a TrainRequest; the upload is checked apart, by `check_upload`."""

    metrics: TrainMetrics
    upload: Upload | None = None


@dataclass(frozen=True, kw_only=True)
class SampleHandoff:
    """Samples at the client's cut for it to finish; labels where the backbone was conditioned on them."""

    round: int
    x_k: Tensor
    labels: Tensor | None = None
