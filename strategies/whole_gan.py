"""What servers do whose clients train whole GANs, from weights that the server gives them."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord

from collafuse_flwr.gan.fedgan import UnsplitGan
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.common import ClientInfo
from collafuse_flwr.wire.gan import GanWorkRequest
from strategies.gan_base import GeneratorStrategy
from strategies.server_model import ServerWork, weights


class WholeGanStrategy(GeneratorStrategy):
    """Generators and discriminators are trained by clients, and averaged.

    A round is K batches at every client, and then means of what comes back. K is that of the split GAN (setup/gan.py),
    so that generators take as many steps. The global arrays are `shared`, the weights that all begin with.
    """

    shared: Weights

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the weights that came and average them."""
        row, began = self.history.rounds[-1], time.perf_counter()
        self._gather_training(replies)
        received, self.received = self.received, {}
        with self._threads():
            noted = self._average(received) if received else {}
        work = ServerWork(math.nan, 0, 0, time.perf_counter() - began, 0)
        row.server = asdict(work) | {"pool": 0} | noted
        return self._arrays(), self._close_training()

    @abstractmethod
    def _average(self, received: Mapping[int, Weights]) -> dict[str, Any]:
        """Average what came, of one client or more; what is to be in the journal about it."""

    @abstractmethod
    def _fresh_weights(self, client: int) -> Weights:
        """The weights that a client begins a round with."""

    def _build(self, client_info: ClientInfo) -> None:
        super()._build(client_info)
        self.shared = UnsplitGan(self.architecture, self.config.run.seed, self.optim_config).blocks()

    def _train_request(self, client: int, round_: int) -> GanWorkRequest:
        """The client's weights, and the number of batches to train them on."""
        return GanWorkRequest(round_, self._steps(), self._fresh_weights(client))

    def _template(self, client: int) -> Weights:
        return self.shared

    def _arrays(self) -> ArrayRecord:
        return ArrayRecord(self.shared)

    def _load_initial(self, arrays: ArrayRecord) -> None:
        self.shared |= weights(arrays)
