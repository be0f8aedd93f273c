"""The messages of strategies that average clients' weights; CollaFuse has none of them."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import ArrayRecord

from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.collafuse import SampleHandoff, TrainReply, TrainRequest
from collafuse_flwr.wire.common import TrainMetrics


@dataclass(frozen=True, kw_only=True)
class WeightsRequest:
    """One round's work: weights to go on from (empty: the client's own), and which to send back afterwards.

    `part` names the part of the network that is wanted (diffusion/partial_sharing.py), `want_averaged` requests its
    averaged weights too, because this round is evaluated. `backbone` is what a fresh denoiser starts from, also in the
    parts that are not shared, but for what `weights` has.
    """

    round: int
    num_rounds: int
    weights: Weights
    part: str
    want_averaged: bool
    backbone: ArrayRecord | None = None


@dataclass(frozen=True, kw_only=True)
class WeightsReply:
    """A client's answer: what was requested of its trained and of its averaged weights (see `check_weights`)."""

    metrics: TrainMetrics
    weights: Weights
    averaged: Weights


@dataclass(frozen=True, kw_only=True)
class WeightsHandoff(SampleHandoff):
    """What to generate from, and the federation's averaged weights to do it with (empty: the client's own)."""

    averaged: Weights


@dataclass(frozen=True, kw_only=True)
class HybridRequest(TrainRequest, WeightsRequest):
    """Both in one."""


@dataclass(frozen=True, kw_only=True)
class HybridReply(TrainReply, WeightsReply):
    """Both in one."""
