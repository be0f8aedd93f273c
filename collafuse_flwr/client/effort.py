"""How much a client trains in a round, and what it puts off."""

from __future__ import annotations

from dataclasses import dataclass, replace

from collafuse_flwr.client.store import Ledger
from collafuse_flwr.config import Config
from collafuse_flwr.effort import client_share, init_round, takes_backbone, updates_per_round


@dataclass(frozen=True)
class Work:
    """The optimiser steps of this round, and the ledger after it."""

    steps: int
    ledger: Ledger


def plan_work(config: Config, ledger: Ledger, round_: int, num_rounds: int, num_images: int, cut: int) -> Work:
    """The steps to take now: this round's updates, and an even part of those put off while waiting for the backbone."""
    due = updates_per_round(config, num_images, client_share(config, cut))
    waiting = takes_backbone(config, cut) and round_ < init_round(config, num_rounds)
    if waiting or not due:
        return Work(0, replace(ledger, round=round_, owed=ledger.owed + due))
    rounds_left = max(1, num_rounds - round_ + 1)
    steps = int((due + ledger.owed / rounds_left) // config.train.client_batch_size)
    owed = ledger.owed + due - steps * config.train.client_batch_size
    first = ledger.first_round or round_
    return Work(steps, replace(ledger, round=round_, first_round=first, owed=owed))
