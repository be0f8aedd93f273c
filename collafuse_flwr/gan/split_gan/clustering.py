"""Clusters of clients whose images are alike, by the discriminator's activations of real images.

batches = torch.stack([torch.stack([stats(a) for a in batch]) for batch in activations])    # (B, N, F)
labels = assign(batches, num_clusters=0)
clusters = follow(previous, dict(zip(clients, labels, strict=True)))
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Runs of k-means from different starts, of which the best is kept.
STARTS = 10
#: A mean silhouette up to this is no substantial structure (Kaufman and Rousseeuw 1990, table 4): one cluster.
STRUCTURE = 0.25


def flat(activations: Tensor) -> Tensor:
    """The mean over a batch, as published: (rows, C, H, W) to (C H W,)."""
    return activations.float().mean(dim=0).flatten()


def stats(activations: Tensor) -> Tensor:
    """Mean and deviation of each filter over rows and positions, which do not see where: (rows, C, H, W) to (2 C,)."""
    values = activations.float().transpose(0, 1).flatten(1)
    return torch.cat([values.mean(dim=1), values.std(dim=1, correction=0)])


def assign(features: Tensor, num_clusters: int, seed: int = 0) -> list[int]:
    """The cluster of each client, counted from 0, by k-means on the mean of its features over batches.

    The mean has a B-th of the variance of one batch, whereas a vote between clusterings of single batches keeps what
    each of them gets wrong. A number that is not given is the one of the largest mean silhouette, and 1 where none is
    above 0.25.

    Args:
        features: (N, F) of one batch, or (B, N, F) of several.
        num_clusters: from 1, or 0 to choose among 1..N - 1; fewer where fewer clients differ.
        seed: of the starts.

    Returns:
        N labels, which follow their clients if these come in another order. From call to call they are not the same
        clusters: see `follow`.

    Raises:
        ValueError: `features` are not finite, or there are more clusters than clients.
    """
    mean = (features if features.dim() == 2 else features.mean(dim=0)).double().cpu()
    num_clients = len(mean)
    if not mean.isfinite().all():
        raise ValueError("`features` are not finite")
    if not 0 <= num_clusters <= num_clients:
        raise ValueError(f"`num_clusters` = {num_clusters} is not in 0..{num_clients}, the number of clients")
    # K-means depends on the order of its rows, so they come in the order of their values.
    order = torch.tensor(sorted(range(num_clients), key=lambda i: mean[i].tolist()), dtype=torch.int64)
    rows = mean[order].numpy()
    different = len(np.unique(rows, axis=0))
    most = min(num_clusters, different)
    clusters = _k_means(rows, most, seed) if num_clusters else _structure(rows, different, seed)
    labels = torch.empty(num_clients, dtype=torch.int64)
    labels[order] = torch.from_numpy(clusters).long()
    return labels.tolist()


def follow(previous: Mapping[int, int], labels: Mapping[int, int]) -> dict[int, int]:
    """Name new clusters after those of the round before, so that most clients stay: the assignment of most overlap.

    A cluster that shares no client with one of before gets a number that was not in use. Clients may be new; of those
    that are absent only `previous` tells, so keep `previous | follow(previous, labels)`.

    Args:
        previous: the cluster of each client so far; empty at first.
        labels: of each client, from `assign`.

    Returns:
        The cluster of each client of `labels`.
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - slow, and clients import this package

    # In the order of their first clients, so that names do not depend on how the labels were numbered.
    new = list(dict.fromkeys(labels[client] for client in sorted(labels)))
    old = sorted(set(previous.values()))
    overlap = np.zeros((len(new), len(old)))
    for client in labels.keys() & previous.keys():
        overlap[new.index(labels[client]), old.index(previous[client])] += 1
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    names = {new[row]: old[column] for row, column in zip(rows, columns, strict=True) if overlap[row, column]}
    unused = count(max(old, default=-1) + 1)
    names |= {label: next(unused) for label in new if label not in names}
    return {client: names[label] for client, label in labels.items()}


def _structure(rows: NDArray[np.float64], different: int, seed: int) -> NDArray[np.int32]:
    """The clusters of the largest silhouette among 2..N - 1, or one cluster."""
    from sklearn.metrics import silhouette_score  # noqa: PLC0415

    best, kept = STRUCTURE, np.zeros(len(rows), dtype=np.int32)
    for num_clusters in range(2, min(different, len(rows) - 1) + 1):
        clusters = _k_means(rows, num_clusters, seed)
        silhouette = float(silhouette_score(rows, clusters))
        if silhouette > best:
            best, kept = silhouette, clusters
    return kept


def _k_means(rows: NDArray[np.float64], num_clusters: int, seed: int) -> NDArray[np.int32]:
    from sklearn.cluster import KMeans  # noqa: PLC0415

    clusters: NDArray[np.int32] = KMeans(num_clusters, n_init=STARTS, random_state=seed).fit_predict(rows)
    return clusters
