"""The authors' loop, written anew from its description: every image trains a client's network and the server's.

A client's step takes a batch of its images. Its own network learns the noise at t <= k on all of them; then the
server's learns, on all of them too, the noise that is added to x_k once more, at t > k. Each takes a step of Adam, and
clients take turns. Batches come from tensors in memory, so what their loading costs is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from collafuse_flwr.diffusion.forward import add_noise_official
from collafuse_flwr.diffusion.schedule import Schedule

#: A network, and how it is called on x_t and t = 1..T.
Network = tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]
LEARNING_RATE, BETAS = 1e-3, (0.9, 0.99)


class _Learner:
    """One network and its Adam."""

    def __init__(self, network: Network) -> None:
        module, self.predict = network
        self.adam = torch.optim.Adam(module.train().parameters(), LEARNING_RATE, BETAS)

    def descend(self, x_t: Tensor, t: Tensor, noise: Tensor) -> None:
        """A step on |noise - noise_hat(x_t, t)|^2."""
        self.adam.zero_grad()
        functional.mse_loss(self.predict(x_t, t), noise).backward()
        self.adam.step()


class DdpmLoop:
    """All clients' networks and the server's, one after another."""

    def __init__(
        self, build: Callable[[], Network], images: Mapping[int, Tensor], schedule: Schedule, cut: int, batch_size: int
    ) -> None:
        """`images` are those of each client, (n, channels, side, side) in [-1, 1]; `cut` is k, within 1..T - 1."""
        self.images, self.schedule, self.cut, self.batch_size = images, schedule, cut, batch_size
        self.server, self.clients = _Learner(build()), {client: _Learner(build()) for client in images}
        self.draws = torch.Generator().manual_seed(0)

    def round(self, num_steps: Mapping[int, int]) -> int:
        """So many steps of each client; the image updates made."""
        for client, steps in num_steps.items():
            for _ in range(steps):
                self._step(client)
        return 2 * self.batch_size * sum(num_steps.values())

    def _step(self, client: int) -> None:
        own = self.images[client]
        x = own[torch.randint(len(own), (self.batch_size,), generator=self.draws)]
        t, noise = self._drawn(x, 1, self.cut)
        self.clients[client].descend(add_noise_official(self.schedule, x, t, noise), t, noise)
        x_k = add_noise_official(self.schedule, x, torch.full_like(t, self.cut), noise)
        t, noise = self._drawn(x, self.cut + 1, self.schedule.timesteps)
        self.server.descend(add_noise_official(self.schedule, x_k, t, noise), t, noise)

    def _drawn(self, x: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
        t = torch.randint(first, last + 1, (len(x),), generator=self.draws)
        return t, torch.randn(x.shape, generator=self.draws)
