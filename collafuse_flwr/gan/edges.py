"""Which edge server each client belongs to, by the way in which its weights have moved, for HFL-GAN.

edges = assign_edges(update_directions(began, came), previous, num_edges=2)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from collafuse_flwr.gan.split_gan.clustering import assign, follow

#: Buffers of a normalisation, which no gradient moves.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def update_directions(
    began: Mapping[int, Mapping[str, Tensor]], came: Mapping[int, Mapping[str, Tensor]]
) -> dict[int, Tensor]:
    """Points that lie to each other as the directions u_i / |u_i| of the updates u_i = w_i after - w_i before.

    With K the matrix of their cosines, as in clustered federated learning (arXiv 1910.01991), and K = V L V^T, they are
    the rows of V L^(1/2): as many values as clients, however large the networks.

    Args:
        began: the weights that each of N clients began with, by name.
        came: the weights that each has sent; running statistics are passed over.

    Returns:
        (N,) in float64 of each client; 0 where nothing moved.
    """
    clients = sorted(came)
    products = torch.zeros((len(clients), len(clients)), dtype=torch.float64)
    for name in came[clients[0]]:
        if not name.endswith(STATISTICS):
            moved = torch.stack([(came[c][name].double() - began[c][name].double()).flatten() for c in clients])
            products += moved @ moved.T
    lengths = products.diagonal().sqrt()
    cosines = products / (lengths[:, None] * lengths).clamp(min=torch.finfo(torch.float64).tiny)
    values, vectors = torch.linalg.eigh(cosines)
    # Rounding can take an eigenvalue of 0 a little below it.
    return dict(zip(clients, vectors * values.clamp(min=0).sqrt(), strict=True))


def assign_edges(directions: Mapping[int, Tensor], previous: Mapping[int, int], num_edges: int) -> dict[int, int]:
    """The edge of each client, in 0..num_edges - 1, by k-means on the directions; fewer where fewer clients differ.

    Edges are named so that most clients stay at theirs.

    Args:
        directions: of each client that is to be assigned (see `update_directions`), one or more.
        previous: the edge of each client so far; empty at first.
        num_edges: from 1.
    """
    clients = sorted(directions)
    points = torch.stack([directions[client] for client in clients])
    labels = dict(zip(clients, assign(points, min(num_edges, len(clients))), strict=True))
    names = follow(previous, labels)
    used = set(names.values())
    # Clusters without a client of before go to edges that have nobody in this round: there are no others.
    free = [edge for edge in range(num_edges) if edge not in used]
    new = {name: free.pop(0) for name in sorted(used) if name >= num_edges}
    return {client: new.get(name, name) for client, name in names.items()}
