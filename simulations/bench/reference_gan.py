"""The split GAN's step as one undivided autograd graph, in float32: what the split is compared with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from collafuse_flwr.gan.split_gan.client_half import PARTS, Batch, ClientHalf
from collafuse_flwr.gan.split_gan.server_half import ServerHalf


class ReferenceGan:
    """The modules and optimisers of given halves, trained as a textbook would: one loss, one backward pass."""

    def __init__(self, server: ServerHalf, halves: Mapping[int, ClientHalf]) -> None:
        self.server, self.halves = server, halves

    def train_batch(self, batches: Mapping[int, Batch]) -> None:
        """D descends BCE(D(G(z)), 0) + BCE(D(x), 1), then G descends BCE(D(G(z)), 1), summed over clients."""
        codes = {client: (batch.z, batch.labels) for client, batch in batches.items()}
        fake = self._through("generator", codes)
        on_fake = self._judge({client: images.detach() for client, images in fake.items()}, batches)
        on_real = self._judge({client: batch.x for client, batch in batches.items()}, batches)
        torch.stack([_loss(on_fake[c], 0.0) + _loss(on_real[c], 1.0) for c in batches]).sum().backward()
        self._step("discriminator")
        torch.stack([_loss(logits, 1.0) for logits in self._judge(fake, batches).values()]).sum().backward()
        self._step("generator")
        for half in self.halves.values():
            for part in ("d_head", "d_tail"):
                half.optimisers[part].zero_grad()
        self.server.optimisers["discriminator"].zero_grad()

    def _judge(self, images: Mapping[int, Tensor], batches: Mapping[int, Batch]) -> dict[int, Tensor]:
        return self._through("discriminator", {c: (x, batches[c].labels) for c, x in images.items()})

    def _through(self, net: str, given: Mapping[int, tuple[Tensor, Tensor]]) -> dict[int, Tensor]:
        """Every client's head, the shared middle on all rows together, every client's tail; one graph."""
        now: dict[int, Tensor] = {}
        done: dict[int, Tensor] = {}
        blocks = self.server.nets[net]
        heads = {c: self.halves[c].parts[f"{net[0]}_head"](*tensors) for c, tensors in given.items()}
        for index in blocks.indices:
            now |= {c: x for c, x in heads.items() if self.server.span(c, net).start == index}
            rows = blocks[index](torch.cat(list(now.values())))
            now = dict(zip(now, rows.split([len(x) for x in now.values()]), strict=True))
            for client in [c for c in now if self.server.span(c, net).stop == index + 1]:
                done[client] = self.halves[client].parts[f"{net[0]}_tail"](now.pop(client))
        return {client: done[client] for client in given}

    def _step(self, net: str) -> None:
        optimisers = [half.optimisers[part] for half in self.halves.values() for part in PARTS if part[0] == net[0]]
        for optimiser in (*optimisers, self.server.optimisers[net]):
            optimiser.step()
            optimiser.zero_grad()


def _loss(logits: Tensor, target: float) -> Tensor:
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
