"""The mean of the clients' clipped updates, and the server's noise on it (DP-FedAvg, `privacy.dp_fedavg`)."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch
from flwr.serverapp.strategy import FedAvg

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.rng import derive_seed, keyed_generator
from collafuse_flwr.diffusion.partial_sharing import part_names
from collafuse_flwr.privacy.dp_fedavg import clipped_update, moved, noised, update_bytes
from collafuse_flwr.wire.codec import Weights
from strategies.aggregation import WeightAggregator

KEY_BYTES = 16


def make_aggregator(flower: FedAvg, like: Weights, config: Config, *, simulated: bool) -> WeightAggregator:
    """What averages clients' weights like `like`: these themselves, or their updates where these are clipped."""
    if config.averaging.clip_norm:
        return UpdateAggregator(flower, like, config, simulated=simulated)
    return WeightAggregator(flower, like, config.federation.max_client_weight)


class UpdateAggregator(WeightAggregator):
    """w_0 + sum_i D_i / K, each part of a network over the clients from which it was wanted.

    All clients count alike: a weight by their images would hang on these. Where the server noises the sum, K is the
    number of clients that were selected, so that one that fails moves it no further than another update does, and
    updates are clipped here once more, whatever clients send. Clients' EMAs do not leave them: the mean itself
    generates.
    """

    def __init__(self, flower: FedAvg, like: Weights, config: Config, *, simulated: bool) -> None:
        """In a simulation noise follows from the seed, which clients know; otherwise the system draws it."""
        super().__init__(flower, like)
        self.config, self.simulated = config, simulated
        self.received: Weights = {}
        self.selected: Counter[str] = Counter()

    def begin(self, received: Weights, parts: Iterable[str]) -> None:
        """Await updates of w_0, which all clients of a round have received: of a part from each."""
        # In an order of their own, in which noise is drawn: a checkpoint has another.
        self.received = {name: received[name] for name in self.like}
        self.selected = Counter(part for part in parts if part != "none")

    def mean(self) -> tuple[Weights, Weights]:
        """What the updates that came in make of w_0, to train from and to generate with; empty where none were due."""
        sent = [own for _, own in self._trained.values() if own]
        self._trained, self._averaged = {}, {}
        mean: Weights = {}
        for part, count in self.selected.items():
            received = {name: self.received[name] for name in part_names(self.received, part)}
            mean |= self._moved(received, [own for own in sent if own.keys() == received.keys()], count)
        return mean, {name: value.clone() for name, value in mean.items()}

    def _moved(self, received: Weights, sent: list[Weights], selected: int) -> Weights:
        """One part of w_0, moved by the updates of those who sent it."""
        own, noisy = self.config.averaging, self.config.averaging.noise == "server"
        values, bound = sum(x.numel() for x in received.values() if x.is_floating_point()), own.clip_norm
        if own.noise == "client":
            # The norm of its noise is below sqrt(values) + 9 deviations, but for one of 10^17.
            bound *= 1 + own.noise_multiplier * (math.sqrt(values) + 9)
        count = selected if noisy else max(1, len(sent))
        total = {
            name: torch.zeros(value.shape, dtype=torch.float64)
            for name, value in received.items()
            if value.is_floating_point()
        }
        for weights in sent:
            for name, value in clipped_update(weights, received, bound).items():
                total[name] += value / count
        if noisy:
            total = noised(total, self._draws(total), own.noise_multiplier * own.clip_norm / count)
        return moved(received, total)

    def _draws(self, total: Weights) -> np.random.Generator:
        if not self.simulated:
            return keyed_generator(secrets.token_bytes(KEY_BYTES), b"")
        key = derive_seed(self.config.run.seed, "noise of averages").to_bytes(KEY_BYTES, "little")
        return keyed_generator(key, update_bytes(total))
