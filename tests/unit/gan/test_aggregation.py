"""Averages of cut networks against a plain loop over full networks, and what must hold of any average."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from collafuse_flwr.gan.aggregation import Own, aggregate, average_networks
from collafuse_flwr.gan.networks import NETS, Cuts, build_architecture, flatten_blocks

CUTS = {3: Cuts(), 5: Cuts(d_head=1), 6: Cuts(d_head=1, d_tail=1), 8: Cuts(d_tail=1), 9: Cuts(d_head=1)}
CLUSTER = {3: 0, 5: 0, 6: 0, 8: 4, 9: 7}
WITHIN = {3: 0.2, 5: 0.5, 6: 0.3, 8: 1.0, 9: 1.0}
OVERALL = {3: 0.1, 5: 0.2, 6: 0.3, 8: 0.25, 9: 0.15}
NET, MIDDLE = "discriminator", {1, 2, 3}


def blocks(indices: set[int], name: str) -> Own:
    built = build_architecture(1, 8, 3, width=4).build(NET, range(5), (name,))
    states = {index: built[index].state_dict() for index in indices}
    for state in states.values():
        for key, value in state.items():
            if key.endswith("num_batches_tracked"):
                value.fill_(sum(map(ord, name)) % 100)
            elif "running" in key:
                value.copy_(torch.rand(value.shape, generator=torch.Generator().manual_seed(len(name) + ord(name[-1]))))
    return states


def indices(client: int) -> set[int]:
    return {*CUTS[client].head(NET), *CUTS[client].tail(NET, 5)}


CLIENTS: dict[int, Own] = {client: blocks(indices(client), f"client {client}") for client in CUTS}
SERVER: Own = blocks(MIDDLE, "server")


def averaged(
    clients: Mapping[int, Own] = CLIENTS, server: Own = SERVER, **changed: object
) -> tuple[dict[int, Own], Own]:
    settings = {"cluster_of": CLUSTER, "within": WITHIN, "overall": OVERALL} | changed
    return aggregate(clients, server, **settings)  # type: ignore[arg-type]


def assert_same(a: Own, b: Own) -> None:
    assert a.keys() == b.keys()
    for index in a:
        assert a[index].keys() == b[index].keys()
        for name, value in a[index].items():
            assert torch.equal(value, b[index][name]), (index, name)


def plain(index: int, name: str, chosen: Mapping[int, float]) -> torch.Tensor:
    """The same by full networks: everyone's copy, wherever it lies, one after the other."""
    full = {client: (CLIENTS[client] if index in CLIENTS[client] else SERVER)[index][name] for client in chosen}
    if name.endswith("num_batches_tracked"):
        return torch.stack(list(full.values())).amax()
    total = sum(chosen.values())
    mean = sum(share / total * full[client].double() for client, share in chosen.items())
    return torch.as_tensor(mean)


def test_every_block_is_the_plain_mean_over_full_networks() -> None:
    renewed, server = averaged()
    for client, own in renewed.items():
        assert own.keys() == indices(client)
        members = {other: WITHIN[other] for other in CUTS if CLUSTER[other] == CLUSTER[client]}
        for index, state in own.items():
            for name, value in state.items():
                expected = plain(index, name, members)
                torch.testing.assert_close(value, expected.to(value.dtype), rtol=1e-7, atol=1e-9)
    assert server.keys() == MIDDLE
    for index, state in server.items():
        for name, value in state.items():
            torch.testing.assert_close(value, plain(index, name, OVERALL).to(value.dtype), rtol=1e-7, atol=1e-9)


def test_the_middle_stays_and_so_do_the_types() -> None:
    _, server = averaged()
    assert_same({2: server[2]}, {2: SERVER[2]})
    kept = {name: (value.dtype, value.shape) for name, value in SERVER[1].items()}
    assert {name: (value.dtype, value.shape) for name, value in server[1].items()} == kept
    assert server[1]["1.num_batches_tracked"] == max(
        own[1]["1.num_batches_tracked"] for own in (*CLIENTS.values(), SERVER) if 1 in own
    )


def test_a_cluster_of_one_keeps_its_blocks() -> None:
    renewed, _ = averaged()
    for client in (8, 9):
        assert_same(renewed[client], CLIENTS[client])


def test_equal_networks_stay_as_they_are() -> None:
    full = blocks(set(range(5)), "all")
    clients = {client: {index: full[index] for index in own} for client, own in CLIENTS.items()}
    renewed, server = averaged(clients, {index: full[index] for index in MIDDLE})
    assert_same(server, {index: full[index] for index in MIDDLE})
    for client, own in renewed.items():
        assert_same(own, clients[client])


def test_a_client_of_all_the_weight_is_copied() -> None:
    """Its blocks where it has them, the server's where it has none."""
    reject_unknown_records = dict.fromkeys(CUTS, 0.0) | {5: 2.0}
    renewed, server = averaged(within=WITHIN | {3: 0.0, 6: 0.0}, overall=reject_unknown_records)
    tracked = "num_batches_tracked"
    for index, average, source in (
        (0, renewed[3], CLIENTS[5]),
        (1, renewed[6], CLIENTS[5]),
        (3, renewed[6], SERVER),
        (1, server, CLIENTS[5]),
        (3, server, SERVER),
    ):
        for name, value in average[index].items():
            assert name.endswith(tracked) or torch.equal(value, source[index][name]), (index, name)


def test_the_order_of_clients_does_not_matter() -> None:
    backwards = dict(reversed(list(CLIENTS.items())))
    (renewed, server), (again, same) = averaged(), averaged(backwards)
    assert_same(server, same)
    for client in CUTS:
        assert_same(renewed[client], again[client])


def test_the_servers_blocks_may_be_kept() -> None:
    renewed, server = averaged(average_server_blocks=False)
    assert_same(server, SERVER)
    assert_same(renewed[3], averaged()[0][3])


def test_nothing_given_is_changed() -> None:
    before = CLIENTS[3][0]["down.0.weight"].clone()
    averaged()
    assert torch.equal(CLIENTS[3][0]["down.0.weight"], before)


def test_what_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(ValueError, match="client 3 has no block 1"):
        averaged(server={2: SERVER[2], 3: SERVER[3]})
    with pytest.raises(ValueError, match="weights of all copies of block 0 are 0"):
        averaged(within=dict.fromkeys(CUTS, 0.0))
    other = CLIENTS | {5: {**CLIENTS[5], 0: {"weight": torch.ones(1)}}}
    with pytest.raises(ValueError, match="two copies of block 0 differ"):
        averaged(other)


def whole(name: str, nets: tuple[str, ...] = NETS) -> dict[str, torch.Tensor]:
    architecture = build_architecture(1, 8, 3, width=2)
    made = {net: architecture.build(net, range(5), (name,)) for net in nets}
    states = {net: {index: own[index].state_dict() for index in own.indices} for net, own in made.items()}
    return {name: value for net, own in states.items() for name, value in flatten_blocks(net, own).items()}


@pytest.mark.parametrize("nets", [NETS, ("discriminator",)])
def test_the_mean_of_equal_networks_is_the_same_network(nets: tuple[str, ...]) -> None:
    mean = average_networks({client: whole("equal", nets) for client in range(3)}, {0: 1.0, 1: 0.3, 2: 7.0})
    assert mean.keys() == whole("equal", nets).keys()
    assert all(torch.equal(value, mean[name]) for name, value in whole("equal", nets).items())


def test_the_mean_of_networks_does_not_depend_on_which_client_is_which() -> None:
    one, other = whole("one"), whole("other")
    there = average_networks({0: one, 1: other}, {0: 3.0, 1: 1.0})
    back = average_networks({0: other, 1: one}, {0: 1.0, 1: 3.0})
    for name, value in one.items():
        torch.testing.assert_close(there[name], back[name])
        if value.is_floating_point():
            torch.testing.assert_close(there[name], 0.75 * value + 0.25 * other[name])
