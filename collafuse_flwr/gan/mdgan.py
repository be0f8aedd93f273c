"""A whole generator on a server and whole discriminators on clients, as in MD-GAN (arXiv 1811.03850)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from collafuse_flwr.evaluation.cost import forward_flops
from collafuse_flwr.gan.networks import LATENT, Architecture, flatten_blocks, group_by_block
from collafuse_flwr.gan.split_gan.client_half import Batch
from collafuse_flwr.gan.split_gan.ops import (
    OptimConfig,
    Tensors,
    adam_state,
    cross_entropy,
    gradient,
    load_adam_state,
    requires_grad_leaf,
    step,
    without_weight_gradients,
)


class GanNetwork:
    """One whole net and its optimiser; `net` is `generator` or `discriminator`."""

    def __init__(
        self, architecture: Architecture, net: str, name: tuple[int | str, ...], optim_config: OptimConfig
    ) -> None:
        """Weights as `name` gives them (see `Architecture.build`)."""
        self.net, self.runtime = net, optim_config.runtime
        indices = range(len(getattr(architecture, net)))
        self.blocks = optim_config.place(architecture.build(net, indices, name))
        self.optimiser = optim_config.optimiser(self.blocks)
        image = (architecture.channels, architecture.size, architecture.size)
        self.row = (LATENT,) if net == "generator" else image

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        """The output of the net on codes or images, in float32."""
        with self.runtime.autocast():
            result: Tensor = self.blocks(x, labels)
        return result.float()

    def weights(self) -> Tensors:
        """The state of all blocks (see `block_name`), on the CPU."""
        states = {index: self.blocks[index].state_dict() for index in self.blocks.indices}
        return {name: value.cpu() for name, value in flatten_blocks(self.net, states).items()}

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Take up blocks by such names; those of another net are passed over."""
        for index, own in group_by_block(state, self.net).items():
            self.blocks[index].load_state_dict(own)

    def state(self) -> Tensors:
        """Blocks, and Adam's moments, by name."""
        return self.weights() | adam_state(self.optimiser, f"adam.{self.net}.")

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        self.load_weights(tensors)
        load_adam_state(self.optimiser, tensors, f"adam.{self.net}.")

    def flops(self) -> int:
        """Operations of a forward pass of one row."""
        device = self.runtime.device
        x, labels = torch.zeros((1, *self.row), device=device), torch.zeros(1, dtype=torch.int64, device=device)
        count = forward_flops(self.blocks.eval(), x, labels)
        self.blocks.train()
        return count


class Generator(GanNetwork):
    """The server's generator, which never sees an image: clients send it the gradient at its output."""

    def __init__(self, architecture: Architecture, name: tuple[int | str, ...], optim_config: OptimConfig) -> None:
        super().__init__(architecture, "generator", name, optim_config)

    @torch.no_grad()
    def sample(self, z: Tensor, labels: Tensor) -> Tensor:
        """Images by running statistics, on the CPU, of codes (n, 100) and labels (n,)."""
        self.blocks.eval()
        images: Tensor = self.blocks(z.to(self.runtime.device), labels.to(self.runtime.device))
        self.blocks.train()
        return images.cpu()

    def optimizer_step(self, fake_batches: Sequence[Tensor], feedback: Mapping[int, tuple[int, Tensor]]) -> None:
        """Take a step on the mean of the clients' losses.

        With F_n the gradient of client n's loss at the batch X_j(n) that it was given, of N clients, a weight's is

            1/N sum_n sum_(x in X_j(n)) F_n(x) dx/dw.

        Args:
            fake_batches: batches, with their graphs.
            feedback: j(n), and F_n, of each client; without any nothing moves.
        """
        grads: dict[int, Tensor] = {}
        for client in sorted(feedback):
            batch, own = feedback[client]
            share = own.to(self.runtime.device) / len(feedback)
            grads[batch] = grads[batch] + share if batch in grads else share
        if grads:
            torch.autograd.backward([fake_batches[batch] for batch in grads], list(grads.values()))
            step(self.optimiser)


class Discriminator(GanNetwork):
    """A client's discriminator, trained on its images and on fake ones that it is sent."""

    def __init__(self, architecture: Architecture, name: tuple[int | str, ...], optim_config: OptimConfig) -> None:
        super().__init__(architecture, "discriminator", name, optim_config)
        self.losses, self.reported = {"discriminator": 0.0, "generator": 0.0}, optim_config.reported

    def learn(self, batch: Batch, fake: Tensor, labels: Tensor) -> None:
        """Take a step on BCE(D(fake, labels), 0) + BCE(D(x, y), 1); the batch's codes go unused."""
        on_fake, on_real = self(fake, labels), self(batch.x, batch.labels)
        (cross_entropy(on_fake, 0.0) + cross_entropy(on_real, 1.0)).backward()
        step(self.optimiser)
        self.losses["discriminator"] = self.reported([on_fake, on_real], 0.0, 1.0)

    def feedback(self, fake: Tensor, labels: Tensor) -> Tensor:
        """The gradient of BCE(D(fake, labels), 1) at the fake images, in their shape."""
        at = requires_grad_leaf(fake)
        with without_weight_gradients(self.blocks):
            logits = self(at, labels)
            cross_entropy(logits, 1.0).backward()
        self.losses["generator"] = self.reported([logits], 1.0)
        return gradient(at)


def shares(clients: Sequence[int], count: int) -> dict[int, tuple[int, int]]:
    """Which of `count` batches each client learns from, and which it judges: (d, g).

    The i-th client judges batch i mod k and learns from batch (i + 1) mod k: the same if k = 1.
    """
    return {client: ((place + 1) % count, place % count) for place, client in enumerate(clients)}


def derangement(clients: Sequence[int], generator: torch.Generator) -> dict[int, int]:
    """A random permutation of two or more clients in which nobody stays where it was: from -> to, all equally likely.

    Fewer than two have none, and get {}.
    """
    if len(clients) < 2:
        return {}
    places = torch.arange(len(clients))
    # A permutation has no fixed point with probability about 1/e, whatever the number of clients.
    while True:
        order = torch.randperm(len(clients), generator=generator)
        if bool((order != places).all()):
            return {clients[i]: clients[j] for i, j in enumerate(order.tolist())}


def draw_codes(count: int, num_classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Codes z ~ N(0, 1), (count, 100), and labels y, uniform on all classes, (count,)."""
    z = torch.randn((count, LATENT), generator=generator)
    return z, torch.randint(0, num_classes, (count,), generator=generator)
