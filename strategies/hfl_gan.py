"""The server side of HFL-GAN as a Flower strategy: means at edge servers, and of discriminators in the cloud."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from collafuse_flwr.gan.aggregation import average_networks
from collafuse_flwr.gan.edges import assign_edges, update_directions
from collafuse_flwr.gan.networks import only
from collafuse_flwr.runs.history import Checkpoint
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.common import ClientInfo
from strategies.client_clustering import clusters_checkpoint, clusters_restored, initial_cluster
from strategies.whole_gan import WholeGanStrategy


class HflGan(WholeGanStrategy):
    """HFL-GAN (Petch et al. 2024, doi 10.1007/s10489-024-05924-x): whole GANs, averaged at edge servers and in a cloud.

    The paper's: clients are clustered to edge servers dynamically, models are aggregated in stages that are not
    identical, and there are several generators. What could be read is the abstract, not how it is done.

    Ours: after each round clients are clustered by the directions in which their weights have moved (gan/edges.py).
    An edge averages both nets of its clients, weighted by images. Every `hfl_gan.cloud_every` rounds the cloud averages
    discriminators of the round's edges alone, weighted by their clients' images; each edge keeps a generator of its
    own, which makes its clients' samples. Edges are simulated in the server: what they save on its link is not.
    """

    def _build(self, client_info: ClientInfo) -> None:
        super()._build(client_info)
        self.edge_of: dict[int, int] = {}
        self.models: dict[int, Weights] = {}

    def _average(self, received: Mapping[int, Weights]) -> dict[str, Any]:
        """Assign clients to edges; average at these, and in some rounds in the cloud."""
        config, round_ = self.config.hfl_gan, self.history.rounds[-1].round
        began = {client: self._fresh_weights(client) for client in received}
        edges = assign_edges(update_directions(began, received), self.edge_of, config.num_edges)
        self.edge_of |= edges
        for edge in sorted(set(edges.values())):
            self.models[edge] = self._mean({client: own for client, own in received.items() if edges[client] == edge})
        in_cloud = bool(config.cloud_every) and round_ % config.cloud_every == 0
        if in_cloud:
            sizes = self._sizes(received)
            images = {edge: sum(sizes[c] for c in received if edges[c] == edge) for edge in set(edges.values())}
            mean = average_networks({edge: only("discriminator", self.models[edge]) for edge in images}, images)
            # Copies: tensors that several share are not written to a file.
            self.models = {e: own | {n: x.clone() for n, x in mean.items()} for e, own in self.models.items()}
        return {"clusters": {str(client): edge for client, edge in edges.items()}, "in_cloud": in_cloud}

    def _fresh_weights(self, client: int) -> Weights:
        """The weights of the client's edge, or of the largest; at first those that all begin with."""
        return self.models.get(initial_cluster(self.edge_of, client), self.shared)

    def _generators(self) -> dict[str, Weights]:
        return {f"edge {edge}.": only("generator", own) for edge, own in sorted(self.models.items())}

    def _generator(self, client: int) -> Weights:
        return only("generator", self._fresh_weights(client))

    def _checkpoint(self) -> Checkpoint:
        kept = clusters_checkpoint(self.edge_of, self.models)
        return Checkpoint(kept.tensors | {"shared": self.shared}, kept.state)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.shared = {name: value.cpu() for name, value in checkpoint.tensors["shared"].items()}
        self.edge_of, models = clusters_restored(checkpoint)
        self.models = {edge: {name: value.cpu() for name, value in own.items()} for edge, own in models.items()}
