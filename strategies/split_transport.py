"""How the split GAN's server reaches its clients: by Flower's messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import torch

from collafuse_flwr.core.runtime import threads
from collafuse_flwr.gan.networks import Architecture, Cuts
from collafuse_flwr.gan.split_gan.factored_gradients import FACTOR, WEIGHT, names_up
from collafuse_flwr.gan.split_gan.ops import PHASES, Tensors
from collafuse_flwr.gan.split_gan.train_batch import Transport
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.split_gan import ActivationsReply, EndRoundReply, SplitRequest

#: Takes in a client's answer.
Accept = Callable[[int, ActivationsReply], None]
#: Holds what a client answers to a phase in a step of a round against what it can be, or raises UploadError.
Check = Callable[[int, str, int, Tensors], None]


class ActivationShapes:
    """The shapes of what a client sends in each phase, by name."""

    def __init__(self, architecture: Architecture, rows: int, factored: bool) -> None:
        self.rows, self.factored = rows, factored
        self.image = torch.Size((architecture.channels, architecture.size, architecture.size))
        self.after = {"g": architecture.shapes("generator"), "d": architecture.shapes("discriminator")}

    def cut(self, cuts: Cuts, name: str) -> torch.Size:
        """One row at `gh`, `gt`, `dh` or `dt`."""
        net, end = name[0], name[1]
        head, tail = (cuts.g_head, cuts.g_tail) if net == "g" else (cuts.d_head, cuts.d_tail)
        return self.after[net][head if end == "h" else len(self.after[net]) - 2 - tail]

    def of(self, cuts: Cuts, phase: str) -> dict[str, torch.Size]:
        """Everything that a client with these cuts sends in a phase."""
        cut = {"judge": "dt", "score": "dt", "generator": "gt"}.get(phase)
        tail = cuts.d_tail if cut == "dt" else cuts.g_tail
        names = names_up(PHASES[phase][1], cut if self.factored and not tail else None)
        return {name: self._shape(cuts, name) for name in names}

    def _shape(self, cuts: Cuts, name: str) -> torch.Size:
        at = next(part for part in name.split("_") if part in ("gh", "gt", "dh", "dt"))
        row = self.cut(cuts, at)
        if name.startswith(FACTOR):
            return torch.Size((self.rows, 1)) if at == "dt" else torch.Size((self.rows, *self.image))
        if name.startswith(WEIGHT):
            return torch.Size((1, row.numel())) if at == "dt" else torch.Size((row[0], self.image[0], 3, 3))
        return torch.Size((self.rows, *row))


class LocalSession(Protocol):
    """A client's part in a round, in this process."""

    def answer(self, step: int, phase: str, received: Tensors) -> Tensors:
        """Answer a phase of a batch."""
        ...

    def close(self, received: Tensors) -> EndRoundReply:
        """End the round."""
        ...


class InProcessTransport:
    """Clients in this process, in one round; the step is moved on by its owner."""

    def __init__(
        self,
        sessions: Mapping[int, LocalSession],
        client_threads: int,
        admit: Callable[[int, Callable[[], None]], bool],
        check: Check,
    ) -> None:
        """Clients have as many threads as they would at the other end of messages: bits depend on it.

        `admit` says whether a check of a client's answer was passed.
        """
        self.sessions, self.client_threads, self.step = sessions, client_threads, 0
        self.admit, self.check = admit, check

    def call(self, phase: str, payloads: Mapping[int, Tensors]) -> dict[int, Tensors]:
        """Ask one client after the other; who diverged is left out, as it would be at the other end of messages."""
        with threads(self.client_threads):
            answers = {c: self.sessions[c].answer(self.step, phase, down) for c, down in payloads.items()}
        return {
            client: answer
            for client, answer in answers.items()
            if self.admit(client, partial(self.check, client, phase, self.step, answer))
        }


class TimedTransport:
    """A link that adds up the seconds in which the server waits for its clients."""

    def __init__(self, link: Transport) -> None:
        self.link, self.seconds = link, 0.0

    def call(self, phase: str, payloads: Mapping[int, Tensors]) -> dict[int, Tensors]:
        """As the link's own."""
        began = time.perf_counter()
        try:
            return self.link.call(phase, payloads)
        finally:
            self.seconds += time.perf_counter() - began


class MessageTransport:
    """Clients at the other end of messages train.split, in one round; the step is moved on by its owner."""

    def __init__(
        self,
        exchange: Callable[[Mapping[int, SplitRequest], Accept], None],
        round_: int,
        cuts: Mapping[int, Cuts],
        check: Check,
        fresh: Callable[[int], Weights],
    ) -> None:
        """`exchange` sends requests and lets answers in; `fresh` gives a client's weights at first (empty: its own)."""
        self.exchange, self.round = exchange, round_
        self.cuts, self.check, self.fresh, self.step = cuts, check, fresh, 0

    def call(self, phase: str, payloads: Mapping[int, Tensors]) -> dict[int, Tensors]:
        """Ask every client in `payloads` at once, and wait for those that answer."""
        requests = {client: self._request(client, phase, tensors) for client, tensors in payloads.items()}
        answers: dict[int, Tensors] = {}
        self.exchange(requests, partial(self._accept, answers, phase))
        return {client: answers[client] for client in sorted(answers)}

    def _request(self, client: int, phase: str, tensors: Tensors) -> SplitRequest:
        begins = self.step == 0 and phase == "latent"
        fresh = self.fresh(client) if begins else {}
        return SplitRequest(self.round, self.step, phase, str(self.cuts[client]), tensors, fresh)

    def _accept(self, answers: dict[int, Tensors], phase: str, client: int, reply: ActivationsReply) -> None:
        """Take in one answer.

        Raises:
            UploadError: it does not fit.
        """
        self.check(client, phase, self.step, reply.activations)
        answers[client] = reply.activations
