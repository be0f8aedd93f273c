"""Who is found alike, and what a cluster of few or of strangers does."""

from __future__ import annotations

import math

import pytest
import torch

from collafuse_flwr.gan.settings import ClusteringConfig
from strategies.client_clustering import ActivationStats, initial_cluster


def seen(laws: dict[int, int], num_clusters: int = 0) -> ActivationStats:
    """What was observed of clients whose activations follow these laws."""
    observed = ActivationStats(ClusteringConfig(num_clusters=num_clusters))
    level = {client: torch.full((4, 2, 2, 2), float(law)) for client, law in laws.items()}
    noise = {c: 0.01 * torch.randn((4, 2, 2, 2), generator=torch.Generator().manual_seed(c)) for c in laws}
    observed.see({client: level[client] + noise[client] for client in laws})
    return observed


def test_the_last_client_of_a_round_stays_in_its_cluster() -> None:
    before = {0: 0, 1: 0, 4: 2, 5: 3}
    for num_clusters in (0, 4):
        weighing = seen({5: 1}, num_clusters).weigh({5: 10}, before, warm_up=False)
        assert weighing.cluster_of == {5: 3}
        assert weighing.within == {5: 1.0}


def test_clusters_of_absent_clients_are_not_looked_for_among_the_others() -> None:
    laws = {client: client // 2 for client in range(8)}
    everybody = seen(laws, 4).weigh(dict.fromkeys(laws, 10), {}, warm_up=False).cluster_of
    assert len(set(everybody.values())) == 4
    some = {client: laws[client] for client in (0, 1, 4, 5)}
    cluster_of = seen(some, 4).weigh(dict.fromkeys(some, 10), everybody, warm_up=False).cluster_of
    assert cluster_of == {client: everybody[client] for client in some}
    # A newcomer may be of a domain of its own.
    newcomer = seen(some | {9: 7}, 4).weigh(dict.fromkeys((*some, 9), 10), everybody, warm_up=False).cluster_of
    assert newcomer[9] not in everybody.values()
    assert {client: newcomer[client] for client in some} == cluster_of


def test_who_was_never_averaged_is_at_home_in_the_largest_cluster() -> None:
    assert initial_cluster({}, 3) == -1
    assert initial_cluster({0: 1, 1: 1, 2: 0}, 2) == 0
    assert initial_cluster({0: 1, 1: 1, 2: 0}, 3) == 1
    assert initial_cluster({0: 1, 2: 0}, 3) == 0


def test_fewer_clients_than_clusters_are_clusters_of_one() -> None:
    observed = ActivationStats(ClusteringConfig(num_clusters=3))
    activations = {c: torch.randn((4, 2, 2, 2), generator=torch.Generator().manual_seed(c)) for c in (1, 4)}
    observed.see(activations)
    weighing = observed.weigh({1: 10, 4: 30}, {}, warm_up=False)
    assert len(set(weighing.cluster_of.values())) == 2
    assert weighing.within == {1: 1.0, 4: 1.0}
    assert math.isclose(sum(weighing.overall.values()), 1)
    assert observed.weigh({1: 10, 4: 30}, {}, warm_up=True).overall == pytest.approx({1: 0.25, 4: 0.75})
