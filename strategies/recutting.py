"""The split GAN's server where cuts move: measures its clients, plans, and lets blocks change hands between rounds.

The clock is the server's own: a client's answers come when they come, so it can seem slower than it is, by being so
for everybody, and never faster. What it says of its own seconds is not used.

At the end of a round a client is sent the cuts of its next one. With its weights it then sends the moments of the
blocks that it leaves (gan/split_gan/block_moments.py), or none where its owner wants to keep them, and keeps its cut. A
block that others leave to the server as well becomes the mean of all copies, as its weights are. With a round's first
message come the moments of blocks that a client takes.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.gan.aggregation import Own, average_block
from collafuse_flwr.gan.networks import Architecture, Cuts, block_name, flatten_blocks, group_by_block
from collafuse_flwr.gan.split_gan.block_moments import (
    KINDS,
    block_moments,
    check_moments,
    leaving,
    load_block_moments,
    moments_template,
    of_kind,
)
from collafuse_flwr.gan.split_gan.ops import PHASES
from collafuse_flwr.gan.split_gan.server_half import ServerHalf
from collafuse_flwr.setup.gan_recuts import Replan, replan, simulated_seconds
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.validation import check_weights


@dataclass
class BatchClock:
    """How long each client took for the batches of a round, on the server's clock."""

    phases: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, seconds: Mapping[int, float]) -> None:
        """Take in how long clients took to answer a phase."""
        for client, own in seconds.items():
            self.phases[client].append(own)

    def medians(self) -> dict[int, float]:
        """Seconds of a batch of each client, the median over those that it has answered whole."""
        count, result = len(PHASES), {}
        for client, own in self.phases.items():
            batches = [sum(own[first : first + count]) for first in range(0, len(own) - count + 1, count)]
            if batches:
                result[client] = statistics.median(batches)
        return result


class Recutting:
    """The cuts of all clients, and what is under way to the next ones."""

    def __init__(self, config: Config, architecture: Architecture, cuts: dict[int, Cuts]) -> None:
        """`cuts` are those of the moment; they change in place."""
        self.config, self.architecture, self.cuts = config, architecture, cuts
        self.every = config.split_gan.replan_rounds
        #: How slow each is planned to be, and from the next round on.
        self.slowness = self.expected = (1.0,) * len(cuts)
        #: The cuts that clients' disks are of, what is planned for the next round, and what is not planned below.
        self.held: dict[int, Cuts] = {}
        self.coming: dict[int, Cuts] = {}
        self.least: dict[int, Cuts] = {}
        #: Moments that came in a round, and what the server's blocks take over from them, and from weights.
        self.received: dict[int, Weights] = {}
        self.merged: Weights = {}

    def begin(self, half: ServerHalf) -> list[int]:
        """Let what was planned happen: the clients whose cuts it moves."""
        moved = sorted(self.coming)
        self.cuts.update(self.coming)
        half.load_blocks(self.merged)
        load_block_moments(half, self.merged)
        self.coming, self.merged = {}, {}
        return moved

    def moments(self, client: int, half: ServerHalf) -> Weights:
        """What a client needs beside weights to go on with blocks that it takes from the server."""
        held, now = self.held.get(client, self.cuts[client]), self.cuts[client]
        template = self._template(leaving(now, held, self.architecture))
        return {name: value.cpu() for name, value in block_moments(half, template).items()} if template else {}

    def plan(self, round_: int, clock: Mapping[int, float] | None) -> Replan | None:
        """Plan the cuts of the next round, if it is time; without a `clock` clients take as long as is modelled."""
        if not self.every or round_ % self.every:
            return None
        now = [self.cuts[client] for client in sorted(self.cuts)]
        measured = simulated_seconds(self.config, self.architecture, now, round_) if clock is None else clock
        planned = replan(self.config, self.architecture, now, self.slowness, measured, self.least)
        if planned is not None:
            self.expected = planned.slowness
            self.coming = {c: own for c, own in enumerate(planned.cuts) if own != self.cuts[c]}
        return planned

    def journal(self, planned: Replan) -> dict[str, object]:
        """What is kept of a plan with the round that led to it."""
        cuts = {str(client): str(own) for client, own in self.coming.items()}
        seconds = {"iteration_before": planned.seconds_before, "iteration": planned.seconds}
        return seconds | {"cuts": cuts, "slowness": list(planned.slowness)}

    def in_words(self, planned: Replan, round_: int) -> str:
        """A line about a plan for a round."""
        moves = ", ".join(f"client {client} {self.cuts[client]} -> {own}" for client, own in self.coming.items())
        seconds = f"{planned.seconds:.3g} s instead of {planned.seconds_before:.3g} s (a model)"
        return f"cuts from round {round_} on: {moves}; an iteration should take {seconds}"

    def next_cuts(self, client: int) -> str | None:
        """What a client is sent at the end of a round, if its cuts are to move."""
        return str(self.coming[client]) if client in self.coming else None

    def take(self, client: int, weights: Weights, betas: tuple[float, float]) -> tuple[Weights, Weights]:
        """What came at the end of a round: a client's blocks, and the moments of those that it leaves, if any.

        Raises:
            UploadError: moments are not those that are due, or none that gradients can make.
        """
        due = self._due(client)
        moments = {name: value for name, value in weights.items() if name in due}
        if moments:
            check_weights("weights", moments, due)
            check_moments(moments, betas)
        return {name: value for name, value in weights.items() if name not in due}, moments

    def ended(self, client: int, moments: Weights) -> None:
        """Note that a client has ended its round, with the moments that it sent."""
        self.held[client] = self.cuts[client]
        if self._due(client) and not moments:
            # Its owner keeps these blocks.
            self.least[client] = self.cuts[client]
            del self.coming[client]
        else:
            self.received[client] = moments

    def merge(self, half: ServerHalf, clients: Mapping[int, Weights], weight: Mapping[int, float]) -> None:
        """Prepare what the server's blocks take over at the next `begin`; who did not end its round keeps its cut.

        Args:
            half: the server's.
            clients: the blocks that came, where the server computes, of each client that has ended its round.
            weight: of each of these among all.
        """
        absent = self.coming.keys() - clients.keys()
        self.slowness = tuple(self.slowness[c] if c in absent else now for c, now in enumerate(self.expected))
        self.expected = self.slowness
        self.coming = {client: own for client, own in self.coming.items() if client in clients}
        joining: dict[tuple[str, int], list[int]] = defaultdict(list)
        for client, own in self.coming.items():
            for block in leaving(self.cuts[client], own, self.architecture):
                joining[block].append(client)
        for (net, index), movers in joining.items():
            users = [client for client in clients if index in half.span(client, net)]
            self._merge_block(half, net, index, movers, users, clients, weight)
        self.received = {}

    def _merge_block(
        self,
        half: ServerHalf,
        net: str,
        index: int,
        movers: list[int],
        users: list[int],
        clients: Mapping[int, Weights],
        weight: Mapping[int, float],
    ) -> None:
        """The mean of one block's copies: those of clients that leave it, and the server's for those that had."""
        shares = weight if any(weight[c] > 0 for c in movers) else dict.fromkeys([*movers, *users], 1.0)
        device, split = half.runtime.device, self.config.split_gan
        moments = {c: {name: x.to(device) for name, x in self.received[c].items()} for c in movers}
        server = block_moments(half, self._template([(net, index)]))
        forgotten = split.reset_moments and split.average_server_blocks
        without: dict[int, Own] = {client: {} for client in users}
        for kind in KINDS[3:] if forgotten else KINDS:
            copies: dict[int, Own] = {c: of_kind(own, kind, net) for c, own in moments.items()}
            # Without a step there are no moments, and of the discriminator no averages.
            if all(index in own for own in copies.values()):
                held = of_kind(server, kind, net)
                chosen = [*movers, *users] if index in held else movers
                mean = average_block(index, chosen, without | copies, held, shares)
                self.merged |= {f"{kind}:{block_name(net, index, name)}": value for name, value in mean.items()}
        if not split.average_server_blocks:
            blocks: dict[int, Own] = {c: group_by_block(clients[c], net) for c in movers}
            held = group_by_block(half.blocks(), net)
            mean = average_block(index, [*movers, *users], without | blocks, held, shares)
            self.merged |= flatten_blocks(net, {index: mean})

    def _due(self, client: int) -> dict[str, Tensor]:
        """The moments that a client is to send at the end of a round."""
        own = self.cuts[client]
        return self._template(leaving(own, self.coming.get(client, own), self.architecture))

    def _template(self, blocks: list[tuple[str, int]]) -> dict[str, Tensor]:
        return moments_template(self.architecture, blocks, averaged=bool(self.config.split_gan.ema))

    def state(self) -> dict[str, object]:
        """What JSON can hold of it."""
        named = {"cuts": self.cuts, "held": self.held, "coming": self.coming, "least": self.least}
        cuts = {name: {str(client): str(own) for client, own in each.items()} for name, each in named.items()}
        return {"recutting": cuts | {"slowness": list(self.slowness)}} if self.every else {}

    def restore(self, state: Mapping[str, Mapping[str, dict[str, str]]], merged: Weights) -> None:
        """Take up what `state` gave, and `merged`."""
        if not self.every:
            return
        kept, self.merged = state["recutting"], dict(merged)
        for name in ("cuts", "held", "coming", "least"):
            getattr(self, name).update({int(client): Cuts.parse(own) for client, own in kept[name].items()})
        self.slowness = self.expected = tuple(map(float, kept["slowness"]))
