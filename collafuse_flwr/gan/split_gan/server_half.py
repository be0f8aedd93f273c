"""The server's half of the split GAN: the union of the blocks that any client leaves to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.func import functional_call

from collafuse_flwr.config.gan_checks import server_block_index
from collafuse_flwr.evaluation.cost import forward_flops
from collafuse_flwr.gan.networks import NETS, Architecture, Blocks, Cuts, block_name, group_by_block
from collafuse_flwr.gan.split_gan.ops import (
    OptimConfig,
    adam_state,
    gradient,
    load_adam_state,
    requires_grad_leaf,
    step,
    without_weight_gradients,
)
from collafuse_flwr.gan.split_gan.weight_average import WeightAverage

#: Tensors by client.
ByClient = dict[int, Tensor]


@dataclass(frozen=True)
class ServerForward:
    """One pass of all clients' rows through the server's blocks of a net.

    `features` is the output of the net's middle block for each client's rows.
    """

    inputs: ByClient
    outputs: ByClient
    features: ByClient

    def back(self, grads: ByClient) -> ByClient:
        """From gradients at the outputs to gradients at the inputs; of clients that sent none, none go back."""
        names = sorted(set(grads) & set(self.outputs))
        if not names:
            return {}
        torch.autograd.backward([self.outputs[client] for client in names], [grads[client] for client in names])
        return {client: gradient(self.inputs[client]) for client in names}


class ServerHalf:
    """One copy of the middle of generator and discriminator, for clients with any cuts.

    Rows of all clients go through a block together: a client's rows join where its head ends and leave where its tail
    begins. Batch statistics are those of all rows; gradients add up over clients.
    """

    def __init__(
        self,
        architecture: Architecture,
        cuts: Mapping[int, Cuts],
        name: tuple[int | str, ...],
        optim_config: OptimConfig,
        spare: Cuts | None = None,
    ) -> None:
        """Blocks as `name` gives them, for clients with these cuts, and those that one with `spare` would leave.

        Raises:
            SettingError: a client's cuts do not fit the nets.
        """
        for own in cuts.values():
            own.check(architecture)
        self.architecture, self.cuts, self.runtime = architecture, cuts, optim_config.runtime
        self.counts = {net: len(getattr(architecture, net)) for net in NETS}
        self.counted: dict[tuple[str, range], int] = {}
        self.nets: dict[str, Blocks] = {}
        for net in self.counts:
            spans = [self._span(own, net) for own in (*cuts.values(), *([] if spare is None else [spare]))]
            union = range(min(span.start for span in spans), max(span.stop for span in spans))
            self.nets[net] = optim_config.place(architecture.build(net, union, name))
        self.optimisers = {net: optim_config.optimiser(blocks) for net, blocks in self.nets.items()}
        self.average = WeightAverage(self.nets["generator"], optim_config.ema)

    def span(self, client: int, net: str) -> range:
        """Indices of the blocks that a client leaves to the server."""
        return self._span(self.cuts[client], net)

    def _span(self, cuts: Cuts, net: str) -> range:
        head, tail = cuts.of(net)
        return range(1 + head, self.counts[net] - 1 - tail)

    def forward(self, net: str, inputs: ByClient, *, train_weights: bool = True) -> ServerForward:
        """Carry the clients' rows through the server's blocks of `generator` or `discriminator`.

        Without `train_weights` gradients go to the inputs alone.
        """
        leaves = {client: requires_grad_leaf(inputs[client]) for client in sorted(inputs)}
        if train_weights:
            return self._through(net, leaves)
        with without_weight_gradients(self.nets[net]):
            return self._through(net, leaves)

    def step(self, net: str) -> None:
        """Train the server's blocks of a net with the gradients that have come back."""
        step(self.optimisers[net])
        if net == "generator":
            self.average.update()

    def reset_moments(self) -> None:
        """Forget Adam's moments: the weights have been averaged."""
        for optimiser in self.optimisers.values():
            optimiser.state.clear()

    def blocks(self) -> dict[str, Tensor]:
        """The state of all blocks (see `block_name`)."""
        return {
            block_name(net, index, name): value
            for net, blocks in self.nets.items()
            for index in blocks.indices
            for name, value in blocks[index].state_dict().items()
        }

    def load_blocks(self, state: Mapping[str, Tensor]) -> None:
        """Take up blocks by such names."""
        for net, blocks in self.nets.items():
            for index, own in group_by_block(state, net).items():
                blocks[index].load_state_dict(own)

    def state(self) -> dict[str, Tensor]:
        """Blocks, and Adam's moments, by name."""
        kept = self.blocks()
        for net, optimiser in self.optimisers.items():
            kept |= adam_state(optimiser, f"adam.{net}.")
        return kept | self.average.state("ema.generator.")

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        self.load_blocks(tensors)
        for net, optimiser in self.optimisers.items():
            load_adam_state(optimiser, tensors, f"adam.{net}.")
        self.average.load(tensors, "ema.generator.")

    @torch.no_grad()
    def generate(self, client: int, gh: Tensor) -> Tensor:
        """The middle of the generator for one client's samples, with running statistics and averaged weights."""
        blocks = self.nets["generator"].eval()
        for index in self.span(client, "generator"):
            own = f"blocks.{index}."
            state = {name.removeprefix(own): x for name, x in self.average.tensors.items() if name.startswith(own)}
            gh = functional_call(blocks[index], state, (gh,))
        blocks.train()
        return gh

    def flops(self, client: int, net: str) -> int:
        """Operations of one forward pass of one of a client's rows through the server's blocks, counted once."""
        span = self.span(client, net)
        if (net, span) not in self.counted:
            self.counted[net, span] = self._flops(net, span)
        return self.counted[net, span]

    def _flops(self, net: str, span: range) -> int:
        shape = self.architecture.shapes(net)[span.start - 1]
        blocks = self.nets[net].eval()
        x = torch.zeros((1, *shape), device=self.runtime.device)
        count = forward_flops(lambda rows: reduce(lambda row, index: blocks[index](row), span, rows), x)
        blocks.train()
        return count

    def _through(self, net: str, leaves: ByClient) -> ServerForward:
        outputs: ByClient = {}
        features: ByClient = {}
        spans = {client: self.span(client, net) for client in leaves}
        members: list[int] = []
        rows: Tensor | None = None
        for index in self.nets[net].indices:
            joining = [client for client in leaves if spans[client].start == index]
            members += joining
            if not members:
                continue
            # Rows are copied only where clients join or leave.
            parts = [] if rows is None else [rows]
            parts += [leaves[client].to(parts[0].dtype) if parts else leaves[client] for client in joining]
            with self.runtime.autocast():
                rows = self.nets[net][index](parts[0] if len(parts) == 1 else torch.cat(parts))
            own = dict(zip(members, rows.split([len(leaves[client]) for client in members]), strict=True))
            if index == server_block_index(self.counts[net]):
                features = {client: x.detach().float() for client, x in own.items()}
            gone = [client for client in members if spans[client].stop == index + 1]
            outputs |= {client: own.pop(client) for client in gone}
            if gone:
                members = list(own)
                rows = torch.cat(list(own.values())) if own else None
        return ServerForward(leaves, outputs, features)
