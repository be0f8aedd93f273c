"""Clients in one process that train as one stack, though each is written as if it were alone.

A client that comes to its training has the next message handled within its own call, and so on; the last one has all
jobs done, and each then goes on with its result, the last one first. Nothing runs at the same time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from flwr.app import Message

from collafuse_flwr.diffusion.stacked import TRAINER, TrainJob, train_all
from collafuse_flwr.diffusion.train import TrainResult


@dataclass
class _Gathering:
    """Jobs that wait for each other, what has come of each, and the seconds that it took."""

    jobs: list[TrainJob] = field(default_factory=list)
    outcomes: list[TrainResult | Exception] = field(default_factory=list)
    seconds: float = 0.0

    def train(self) -> None:
        """Do all jobs."""
        began = time.perf_counter()
        self.outcomes = train_all(self.jobs)
        self.seconds = time.perf_counter() - began

    def share(self, result: TrainResult) -> float:
        """The seconds of one result, by its steps."""
        steps = sum(own.steps for own in self.outcomes if isinstance(own, TrainResult))
        return self.seconds * result.steps / max(1, steps)


class ClientStack:
    """Handles messages to different nodes, whose training waits until all have come to it."""

    def __init__(self, handle: Callable[[Message], Message]) -> None:
        """`handle` has a node answer a message, by an error where its client raises one."""
        self._handle = handle
        self._left: deque[Message] = deque()
        self._replies: dict[str, Message] = {}
        self._gathering = _Gathering()

    def answer(self, messages: Sequence[Message]) -> list[Message]:
        """The replies, in the order of the messages."""
        self._left.extend(messages)
        token = TRAINER.set(self._train)
        try:
            self._handle_rest()
        finally:
            TRAINER.reset(token)
        return [self._replies[message.metadata.message_id] for message in messages]

    def _handle_rest(self) -> None:
        while self._left:
            message = self._left.popleft()
            self._replies[message.metadata.message_id] = self._handle(message)

    def _train(self, job: TrainJob) -> TrainResult:
        began, gathering = time.perf_counter(), self._gathering
        place = len(gathering.jobs)
        gathering.jobs.append(job)
        self._handle_rest()
        if not gathering.outcomes:
            # The last to come. A client that trains once more does so by itself.
            self._gathering = _Gathering()
            gathering.train()
        outcome = gathering.outcomes[place]
        if isinstance(outcome, Exception):
            raise outcome
        return replace(outcome, waited=time.perf_counter() - began - gathering.share(outcome))
