"""The server side of the federated split GAN as a Flower strategy: the mean of the clients' discriminators."""

from __future__ import annotations

from collections.abc import Mapping

from collafuse_flwr.wire.codec import Weights
from strategies.server_generator import EVERYONE, ServerGeneratorStrategy


class FslGan(ServerGeneratorStrategy):
    """Federated split GANs (arXiv 2207.01750): after each round the clients' discriminators are averaged.

    The paper's: the generator is on the server, and learns from one batch that all clients judge; a site spreads its
    discriminator's layers over devices of its own; once an epoch each part is averaged over the sites. What could be
    read is the abstract and the authors' notebook, not the paper's text.

    Ours: a round takes the place of the epoch. The mean is weighted by images, as in FedAvg, where the notebook weights
    sites alike. A client judges after its step, as in MD-GAN here, and the generator descends the mean of the losses,
    where the notebook's descends their sum from before the step. Which device of a site holds which layers is not
    simulated: it changes the site's seconds, and no weight.
    """

    def _redistribute(self, received: Mapping[int, Weights]) -> None:
        """Give the mean to all clients; it stays as it is where no discriminator came."""
        if received:
            self.discriminators = {EVERYONE: self._mean(received)}
