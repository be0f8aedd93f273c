"""How much a client trains in a round, and what it puts off."""

from __future__ import annotations

from dataclasses import dataclass, replace

from collafuse_flwr.client.state_store import ClientState
from collafuse_flwr.config.config import Config
from collafuse_flwr.setup.training_budget import (
    client_start_round,
    client_step_share,
    starts_from_backbone,
    updates_per_round,
)


@dataclass(frozen=True)
class RoundPlan:
    """The optimiser steps of this round, and the ledger after it."""

    steps: int
    ledger: ClientState


def plan_round(
    config: Config, ledger: ClientState, round_: int, num_rounds: int, num_images: int, cut: int
) -> RoundPlan:
    """The steps to take now: this round's updates, and an even part of those put off while waiting for the backbone."""
    due = updates_per_round(config, num_images, client_step_share(config, cut))
    waiting = starts_from_backbone(config, cut) and round_ < client_start_round(config, num_rounds)
    if waiting or not due:
        return RoundPlan(0, replace(ledger, round=round_, deferred_updates=ledger.deferred_updates + due))
    rounds_left = max(1, num_rounds - round_ + 1)
    steps = int((due + ledger.deferred_updates / rounds_left) // config.client.batch_size)
    deferred_updates = ledger.deferred_updates + due - steps * config.client.batch_size
    first = ledger.first_round or round_
    return RoundPlan(steps, replace(ledger, round=round_, first_round=first, deferred_updates=deferred_updates))
