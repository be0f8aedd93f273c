"""The weighted mean of clients' weights, by Flower's own FedAvg."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.fedavg import WeightsReply
from collafuse_flwr.wire.validation import check_weights
from strategies.fairness import cap_weights
from strategies.server_model import weights


class WeightAggregator:
    """Weights as they come in during a round, and their mean sum_i n_i w_i / sum_i n_i (arXiv 1602.05629, eq. 2).

    Clients may send different parts of a network: each part is averaged over those who sent it.
    """

    def __init__(self, flower: FedAvg, like: Weights, most: float = 1.0) -> None:
        """Average with `flower`; `like` has the name, shape and type of everything that may be shared.

        `most` is the largest share of one client in a mean.
        """
        self.flower, self.like, self.most = flower, like, most
        self._trained: dict[int, tuple[int, Weights]] = {}
        self._averaged: dict[int, tuple[int, Weights]] = {}

    def begin(self, received: Weights, parts: Iterable[str]) -> None:
        """Hear of a round what its clients have received, and of which part each is to answer: a mean needs neither."""

    def check(self, reply: WeightsReply, names: list[str], want_averaged: bool) -> None:
        """Hold a reply against the request; a client that took no step sends nothing.

        Raises:
            UploadError: it is not that.
        """
        wanted = {name: self.like[name] for name in names} if reply.metrics.steps else {}
        check_weights("weights", reply.weights, wanted)
        check_weights("averaged", reply.averaged, wanted if want_averaged else {})

    def add(self, client: int, num_images: int, reply: WeightsReply) -> None:
        """Take in a checked reply."""
        self._trained[client], self._averaged[client] = (num_images, reply.weights), (num_images, reply.averaged)

    def mean(self) -> tuple[Weights, Weights]:
        """The mean of the trained and of the averaged weights that came in, and forget them; empty where none did."""
        means = self.combine(self._trained), self.combine(self._averaged)
        self._trained, self._averaged = {}, {}
        return means

    def combine(self, collected: Mapping[int, tuple[int, Weights]]) -> Weights:
        """What becomes of the images and weights of each client; another rule than the mean goes here."""
        by_part: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
        for client, (num_images, own) in collected.items():
            if own:
                by_part[tuple(own)][client] = num_images
        mean: Weights = {}
        for sizes in by_part.values():
            replies = []
            for client, size in cap_weights(sizes, self.most).items():
                content = RecordDict({"arrays": ArrayRecord(collected[client][1])})
                content["metrics"] = MetricRecord({"num-examples": size})
                replies.append(Message(content, client, "train"))
            arrays, _ = FedAvg.aggregate_train(self.flower, 0, replies)
            if arrays is not None:
                mean |= weights(arrays)
        return {name: value.to(self.like[name].dtype) for name, value in mean.items()}
