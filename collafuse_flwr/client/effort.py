"""How much a client trains in a round, and what it puts off."""

from __future__ import annotations

from dataclasses import dataclass, replace

from collafuse_flwr.client.store import Ledger
from collafuse_flwr.config import Config
from collafuse_flwr.effort import init_round, takes_backbone, updates_per_round
from collafuse_flwr.wire import TrainRequest


@dataclass(frozen=True)
class Work:
    """The optimiser steps of this round, and the ledger after it."""

    steps: int
    ledger: Ledger


def plan_work(config: Config, ledger: Ledger, request: TrainRequest, num_images: int, cut: int) -> Work:
    """The steps to take now: this round's updates, and an even part of those put off while waiting for the backbone."""
    due = updates_per_round(config, num_images, cut / config.model.timesteps)
    waiting = takes_backbone(config, cut) and request.round < init_round(config, request.num_rounds)
    if waiting or not due:
        return Work(0, replace(ledger, round=request.round, owed=ledger.owed + due))
    rounds_left = max(1, request.num_rounds - request.round + 1)
    steps = int((due + ledger.owed / rounds_left) // config.train.client_batch_size)
    owed = ledger.owed + due - steps * config.train.client_batch_size
    first = ledger.first_round or request.round
    return Work(steps, replace(ledger, round=request.round, first_round=first, owed=owed))
