"""Directions of updates keep their angles, and clients that move alike share an edge."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.gan.edges import assign_edges, update_directions

WAYS = {client: torch.randn(40, generator=named_generator("way", client)) for client in range(2)}


def moved(way: Tensor, length: float, name: str) -> dict[str, Tensor]:
    noise = torch.randn(40, generator=named_generator(name))
    update = length * (way + 0.3 * noise)
    return {"a.weight": update[:24].view(4, 6), "a.bias": update[24:], "a.running_var": 50 + noise.abs()}


def updates(clients: dict[int, int]) -> tuple[dict[int, dict[str, Tensor]], dict[int, dict[str, Tensor]]]:
    """Weights before and after, of clients that each go one of the ways."""
    began = {client: moved(torch.ones(40), 1.0, f"began {client}") for client in clients}
    steps = {client: moved(WAYS[way], 0.1 + client, f"step {client}") for client, way in clients.items()}
    return began, {c: {name: own[name] + steps[c][name] for name in own} for c, own in began.items()}


def test_directions_have_the_cosines_of_the_updates() -> None:
    began, came = updates({3: 0, 5: 1, 8: 0})
    directions = update_directions(began, came)
    flat = {
        c: torch.cat([(came[c][name] - began[c][name]).double().flatten() for name in ("a.weight", "a.bias")])
        for c in came
    }
    for one in came:
        for other in came:
            cosine = torch.nn.functional.cosine_similarity(flat[one], flat[other], dim=0).item()
            assert (directions[one] @ directions[other]).item() == pytest.approx(cosine, abs=1e-6)


def test_who_has_not_moved_has_no_direction() -> None:
    began, came = updates({0: 0, 1: 1})
    assert update_directions(began, came | {1: began[1]})[1].norm() == 0


def test_who_moves_alike_shares_an_edge_whoever_comes_first() -> None:
    ways = {0: 0, 1: 1, 2: 1, 3: 0, 4: 1}
    edges = assign_edges(update_directions(*updates(ways)), {}, 2)
    assert {edges[0], edges[3]} != {edges[1], edges[2], edges[4]}
    assert edges[0] == edges[3]
    assert edges[1] == edges[2] == edges[4]
    reverse = {4 - client: way for client, way in ways.items()}
    turned = assign_edges(update_directions(*updates(reverse)), {}, 2)
    assert len({turned[4], turned[1]}) == len({turned[3], turned[2], turned[0]}) == 1


def test_edges_keep_their_names_and_there_are_never_more() -> None:
    directions = update_directions(*updates({0: 0, 1: 1, 2: 0, 3: 1}))
    assert assign_edges(directions, {0: 1, 1: 0, 2: 1}, 2) == {0: 1, 1: 0, 2: 1, 3: 0}
    # Nobody of before takes part.
    assert set(assign_edges(directions, {7: 0, 8: 1}, 2).values()) == {0, 1}
    alone = update_directions(*updates({5: 0}))
    assert assign_edges(alone, {7: 0, 5: 1}, 2) == {5: 1}
    assert assign_edges(alone, {7: 1}, 2) == {5: 0}
