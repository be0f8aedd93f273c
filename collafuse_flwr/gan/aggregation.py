"""Layer by layer averages of networks that clients have cut at different places."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from collafuse_flwr.gan.networks import NETS, flatten_blocks, group_by_block

#: The `state_dict` of one block, with the buffers of its normalisation.
State = Mapping[str, Tensor]
#: Blocks of one net, by their index in it: a client's head and tail, or the server's middle.
Own = Mapping[int, State]
#: What becomes of the server's blocks: the mean over all clients, as published, or as they are.


def aggregate(
    clients: Mapping[int, Own],
    server: Own,
    *,
    cluster_of: Mapping[int, int],
    within: Mapping[int, float],
    overall: Mapping[int, float],
    average_server_blocks: bool = True,
) -> tuple[dict[int, Own], Own]:
    """Average one net: the clients' blocks within their clusters, the server's over all.

    Of client j block i is b_ij: its own, or the server's where it has none. With weights w (within) and v (overall)

        block i of every client of cluster S = sum_(j in S) w_j b_ij / sum_(j in S) w_j
        block i of the server                = sum_j v_j b_ij / sum_j v_j

    Everybody keeps the blocks it had. Whole numbers, such as counts of batches, become the largest one.

    Args:
        clients: the blocks of each client.
        server: the server's blocks.
        cluster_of: the cluster of each client.
        within: w, of each client, not all 0 in any cluster.
        overall: v, of each client, not all 0.
        average_server_blocks: false leaves the server's blocks alone.

    Returns:
        New blocks of each client, of which those of a cluster share their tensors, and of the server.

    Raises:
        ValueError: a block is neither a client's nor the server's, two copies of one differ in names or shapes, or
            weights are all 0.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for client in sorted(clients):
        members[cluster_of[client]].append(client)
    renewed: dict[int, Own] = {}
    for cluster in members.values():
        indices = sorted({index for client in cluster for index in clients[client]})
        means = {index: average_block(index, cluster, clients, server, within) for index in indices}
        renewed |= {client: {index: means[index] for index in clients[client]} for client in cluster}
    if not average_server_blocks:
        return renewed, server
    return renewed, {index: average_block(index, sorted(clients), clients, server, overall) for index in server}


def average_networks(clients: Mapping[int, Mapping[str, Tensor]], weight: Mapping[int, float]) -> dict[str, Tensor]:
    """The mean of whole networks of all clients, sum_j w_j x_j / sum_j w_j (FedAvg, arXiv 1602.05629).

    Args:
        clients: the tensors of each client, of one or more, by `block_name`; all have the same.
        weight: w, of each client, not all 0.

    Raises:
        ValueError: clients differ in names or shapes, or weights are all 0.
    """
    everyone, any_one = dict.fromkeys(clients, 0), min(clients)
    mean: dict[str, Tensor] = {}
    for net in NETS:
        own: dict[int, Own] = {client: group_by_block(blocks, net) for client, blocks in clients.items()}
        means, _ = aggregate(own, {}, cluster_of=everyone, within=weight, overall=weight)
        mean |= flatten_blocks(net, means[any_one])
    return mean


def average_block(
    index: int, chosen: Iterable[int], clients: Mapping[int, Own], server: Own, weight: Mapping[int, float]
) -> State:
    """The mean of one block over some clients, in which the server's copy stands in for all that have none."""
    copies: list[tuple[State, float]] = []
    stand_in = 0.0
    for client in chosen:
        if index in clients[client]:
            copies.append((clients[client][index], weight[client]))
        elif index in server:
            stand_in += weight[client]
        else:
            raise ValueError(f"client {client} has no block {index}, and neither has the server")
    if stand_in:
        copies.append((server[index], stand_in))
    if not sum(share for _, share in copies) > 0:
        raise ValueError(f"the weights of all copies of block {index} are 0")
    shapes = [{name: value.shape for name, value in state.items()} for state, _ in copies]
    if any(other != shapes[0] for other in shapes):
        raise ValueError(f"two copies of block {index} differ in names or shapes")
    return {name: _mean([(state[name], share) for state, share in copies]) for name in shapes[0]}


def _mean(values: list[tuple[Tensor, float]]) -> Tensor:
    """Weighted mean, summed in float64 one by one: a stack of all would need as many copies of the largest layer."""
    first = values[0][0]
    if not first.is_floating_point():
        return torch.stack([value for value, _ in values]).amax(dim=0)
    total = torch.zeros_like(first, dtype=torch.float64)
    for value, share in values:
        total.add_(value, alpha=share)
    return (total / sum(share for _, share in values)).to(first.dtype)
