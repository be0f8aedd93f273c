"""Clusters and weights of the split GAN's clients, from their activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from collafuse_flwr.gan.settings import ClusteringConfig
from collafuse_flwr.gan.split_gan.clustering import assign, flat, follow, stats
from collafuse_flwr.gan.split_gan.kld_weighting import Direction, calibrate, kld_scores, weights
from collafuse_flwr.runs.history import Checkpoint
from collafuse_flwr.wire.codec import Weights
from strategies.fairness import cap_weights

#: Share of the effective sample size that a calibrated beta keeps.
KEPT_SHARE = 0.9


@dataclass(frozen=True)
class ClientWeights:
    """Clusters of a round's clients, and their weights within them and among all; `scores` are the divergences."""

    cluster_of: dict[int, int]
    within: dict[int, float]
    overall: dict[int, float]
    scores: dict[int, float]

    def capped(self, most: float) -> ClientWeights:
        """Weights of which no client has more than a share of `most`, in its cluster and over all."""
        within = dict(self.within)
        for cluster in set(self.cluster_of.values()):
            members = {c: w for c, w in self.within.items() if self.cluster_of[c] == cluster}
            within |= cap_weights(members, most)
        return replace(self, within=within, overall=cap_weights(self.overall, most))

    def journal(self) -> dict[str, dict[str, int] | dict[str, float]]:
        """What is kept of it with a round."""
        return {
            "clusters": {str(client): cluster for client, cluster in self.cluster_of.items()},
            "weights": {str(client): weight for client, weight in self.within.items()},
            "divergences": {str(client): score for client, score in self.scores.items()},
        }


@dataclass
class ActivationStats:
    """What is kept of the discriminator's middle activations of real images, of the last batches of a round."""

    config: ClusteringConfig
    means: list[dict[int, Tensor]] = field(default_factory=list)
    looks: list[dict[int, Tensor]] = field(default_factory=list)

    def see(self, activations: Mapping[int, Tensor]) -> None:
        """Take in one batch: (rows, maps, height, width) of each client, or (rows, values) of a dense block."""
        look = {"mean": flat, "moments": stats}[self.config.feature]
        self.means.append({client: _positions(x.mean(dim=0)).cpu() for client, x in activations.items()})
        self.looks.append({client: look(x).cpu() for client, x in activations.items()})
        del self.means[: -self.config.num_batches], self.looks[: -self.config.num_batches]

    def weigh(self, sizes: Mapping[int, int], before: Mapping[int, int], *, warm_up: bool) -> ClientWeights:
        """Cluster the clients and weigh them; in the warm-up all are one cluster, weighted by size alone.

        Args:
            sizes: images of each client that is to be weighed; all of them were seen in every batch.
            before: the clusters so far, whose numbers go on where clients stay together.
            warm_up: whether this is a first round.
        """
        clients = sorted(sizes)
        cluster_of = dict.fromkeys(clients, 0)
        if not warm_up:
            cluster_of = dict(follow(before, self._assign(clients, before)))
        within: dict[int, float] = {}
        scores: dict[int, float] = {}
        for cluster in sorted(set(cluster_of.values())):
            members = [client for client in clients if cluster_of[client] == cluster]
            own, kld_weights = self._weights(members, sizes, warm_up)
            within |= own
            scores |= kld_weights
        overall, _ = self._weights(clients, sizes, warm_up)
        return ClientWeights(cluster_of, within, overall, scores)

    def _assign(self, clients: list[int], before: Mapping[int, int]) -> dict[int, int]:
        """Clusters of some clients, by new numbers.

        Once clients have clusters, those of absent clusters are not looked for among the others.
        """
        wanted = min(self.config.num_clusters, len(clients))
        if len(set(before.values())) > 1:
            newcomers = sum(client not in before for client in clients)
            wanted = min(wanted, len({before[client] for client in clients if client in before}) + newcomers)
        if wanted == 1 or len(clients) == 1:
            return dict.fromkeys(clients, 0)
        looks = torch.stack([torch.stack([look[client] for client in clients]) for look in self.looks])
        return dict(zip(clients, assign(looks, wanted), strict=True))

    def _weights(
        self, clients: list[int], sizes: Mapping[int, int], warm_up: bool
    ) -> tuple[dict[int, float], dict[int, float]]:
        """Weights of a set of clients among themselves, and their divergences."""
        means = torch.stack([torch.stack([batch[client] for batch in self.means]).mean(dim=0) for client in clients])
        images = torch.tensor([sizes[client] for client in clients])
        scores = kld_scores(means, cast(Direction, self.config.kld_direction))
        beta = self.config.kld_beta
        if beta < 0:
            beta = calibrate(images, scores, KEPT_SHARE)
        kld_weights = weights(images, scores, 0.0 if warm_up else beta)
        return dict(zip(clients, kld_weights.tolist(), strict=True)), dict(zip(clients, scores.tolist(), strict=True))


def initial_cluster(cluster_of: Mapping[int, int], client: int) -> int:
    """The cluster whose blocks a client begins a round with: its own, or the largest if it was never averaged.

    -1 where nobody was.
    """
    sizes = Counter(cluster_of.values())
    return cluster_of.get(client, max(sorted(sizes), key=lambda cluster: sizes[cluster], default=-1))


def initial_blocks(
    cluster_of: Mapping[int, int],
    models: Mapping[int, Weights],
    server: Mapping[str, Tensor],
    client: int,
    wanted: Iterable[str],
) -> Weights:
    """The `wanted` blocks that a client begins a round with: its cluster's, or the server's where that has none.

    Nothing where nobody was averaged, and it goes on with its own.
    """
    own = models.get(initial_cluster(cluster_of, client), {})
    return {name: own[name] if name in own else server[name] for name in wanted} if own else {}


def clusters_checkpoint(cluster_of: Mapping[int, int], models: Mapping[int, Weights]) -> Checkpoint:
    """The clusters of clients, and the blocks of each, as they are kept."""
    tensors = {f"cluster {cluster}": own for cluster, own in models.items()}
    return Checkpoint(tensors, {"cluster_of": {str(client): cluster for client, cluster in cluster_of.items()}})


def clusters_restored(checkpoint: Checkpoint) -> tuple[dict[int, int], dict[int, Weights]]:
    """The clusters of clients, and the blocks of each, of a checkpoint by `clusters_checkpoint`."""
    models = {int(p.split()[1]): own for p, own in checkpoint.tensors.items() if p.startswith("cluster ")}
    return {int(client): cluster for client, cluster in checkpoint.state["cluster_of"].items()}, models


def _positions(mean: Tensor) -> Tensor:
    """Mean activations as (filters, positions); the values of a dense block are positions of one filter."""
    return mean.flatten(1) if mean.ndim > 1 else mean[None]
