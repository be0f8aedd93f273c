"""The server side of MD-GAN as a Flower strategy: discriminators go from client to client."""

from __future__ import annotations

from collections.abc import Mapping

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.gan.mdgan import derangement
from collafuse_flwr.wire.codec import Weights
from strategies.server_generator import ServerGeneratorStrategy


class MdGan(ServerGeneratorStrategy):
    """MD-GAN (arXiv 1811.03850): after each round clients swap discriminators.

    Flower's clients do not reach each other, so these pass through the server.
    """

    def _num_batches(self) -> int:
        return self.config.mdgan.k

    def _redistribute(self, received: Mapping[int, Weights]) -> None:
        """Give every discriminator that came to another client that sent one; who sent none begins as it did before."""
        row = self.history.rounds[-1]
        swapped = derangement(sorted(received), named_generator(self.config.run.seed, "swap", row.round))
        self.discriminators = {client: own for client, own in self.discriminators.items() if client not in received}
        self.discriminators |= {receiver: received[sender] for sender, receiver in swapped.items()}
        row.server["swapped"] = {str(sender): receiver for sender, receiver in swapped.items()}
