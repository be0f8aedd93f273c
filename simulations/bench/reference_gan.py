"""The split GAN's step as one undivided autograd graph, in float32: what the split is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor

from collafuse_flwr.gan.label_tail import learning_labels
from collafuse_flwr.gan.split_gan.client_half import PARTS, Batch, ClientHalf
from collafuse_flwr.gan.split_gan.server_half import ServerHalf


class ReferenceGan:
    """The modules and optimisers of given halves, trained as a textbook would: one loss, one backward pass."""

    def __init__(self, server: ServerHalf, halves: Mapping[int, ClientHalf]) -> None:
        self.server, self.halves = server, halves

    def train_batch(self, batches: Mapping[int, Batch]) -> None:
        """D descends its loss on G(z) and x, then G descends its own, each summed over clients."""
        codes = {client: (batch.z, batch.fake_labels) for client, batch in batches.items()}
        fake, optim = self._through("generator", codes), next(iter(self.halves.values())).optim_config
        with ExitStack() as stack:
            for half in self.halves.values():
                stack.enter_context(learning_labels(half.parts["d_tail"]))
            on_fake = self._judge("dh_fake", {client: images.detach() for client, images in fake.items()}, batches)
            on_real = self._judge("dh_real", {client: batch.x for client, batch in batches.items()}, batches)
        losses = [optim.loss(on_fake[c], 0.0) + optim.loss(on_real[c], 1.0) for c in batches]
        torch.stack(losses).sum().backward()
        self._step("discriminator")
        judged = self._judge("dh", fake, batches)
        torch.stack([optim.loss(logits, 1.0, fool=True) for logits in judged.values()]).sum().backward()
        self._step("generator")
        for half in self.halves.values():
            for part in ("d_head", "d_tail"):
                half.optimisers[part].zero_grad()
        self.server.optimisers["discriminator"].zero_grad()

    def _judge(self, name: str, images: Mapping[int, Tensor], batches: Mapping[int, Batch]) -> dict[int, Tensor]:
        inputs = {c: (batches[c].shown(name, x), batches[c].labels_of(name)) for c, x in images.items()}
        real = name.endswith("real")
        labels = {c: batch.labels if real else batch.fake_labels for c, batch in batches.items()}
        return self._through("discriminator", inputs, labels)

    def _through(
        self, net: str, inputs: Mapping[int, tuple[Tensor, Tensor]], labels: Mapping[int, Tensor] | None = None
    ) -> dict[int, Tensor]:
        """Every client's head, the shared middle on all rows together, every client's tail; one graph."""
        now: dict[int, Tensor] = {}
        done: dict[int, Tensor] = {}
        blocks = self.server.nets[net]
        heads = {c: self.halves[c].parts[f"{net[0]}_head"](*tensors) for c, tensors in inputs.items()}
        for index in blocks.indices:
            now |= {c: x for c, x in heads.items() if self.server.span(c, net).start == index}
            rows = blocks[index](torch.cat(list(now.values())))
            now = dict(zip(now, rows.split([len(x) for x in now.values()]), strict=True))
            for client in [c for c in now if self.server.span(c, net).stop == index + 1]:
                tail = self.halves[client].parts[f"{net[0]}_tail"]
                done[client] = tail(now.pop(client), None if labels is None else labels[client])
        return {client: done[client] for client in inputs}

    def _step(self, net: str) -> None:
        optimisers = [half.optimisers[part] for half in self.halves.values() for part in PARTS if part[0] == net[0]]
        for optimiser in (*optimisers, self.server.optimisers[net]):
            optimiser.step()
            optimiser.zero_grad()
