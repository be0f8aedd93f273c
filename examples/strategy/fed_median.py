"""A strategy of one's own: FedAvg with the median of the clients' weights (Yin et al. 2018, arXiv 1803.01498)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from collafuse_flwr.config.strategies import STRATEGIES
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.common import ClientInfo
from strategies.aggregation import WeightAggregator
from strategies.fedavg import PartialFedAvg


class MedianAggregator(WeightAggregator):
    """The median of every weight over the clients: half of them, less one, may send anything."""

    def combine(self, collected: Mapping[int, tuple[int, Weights]]) -> Weights:
        """Of the clients that sent weights; how many images they have does not count."""
        sent = [own for _, own in collected.values() if own]
        return {name: self._median(name, [own[name] for own in sent]) for name in (sent[0] if sent else {})}

    def _median(self, name: str, values: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(values).double().quantile(0.5, dim=0).to(self.like[name].dtype)


class FedMedian(PartialFedAvg):
    """The server's side; clients are those of FedAvg."""

    def _build(self, client_info: ClientInfo) -> None:
        super()._build(client_info)
        self.aggregator = MedianAggregator(self, self.shared)


SPEC = replace(
    STRATEGIES["fedavg"],
    name="examples.strategy.fed_median:SPEC",
    about="FedAvg with the median of the clients' weights (arXiv 1803.01498)",
    server="examples.strategy.fed_median:FedMedian",
    # Its guarantee is that of a mean.
    reads=STRATEGIES["fedavg"].reads - {"averaging"},
)
