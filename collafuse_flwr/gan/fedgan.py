"""Both nets of the split GAN in one place, trained by the split's own steps: a client of FedGAN (arXiv 2006.07228)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from collafuse_flwr.gan.networks import NETS, Architecture, Cuts
from collafuse_flwr.gan.split_gan.client_half import Batch, ClientHalf
from collafuse_flwr.gan.split_gan.ops import PASSES, OptimConfig, Tensors
from collafuse_flwr.gan.split_gan.server_half import ServerHalf
from collafuse_flwr.gan.split_gan.train_batch import InProcess, train_batch


class UnsplitGan:
    """A device and a server in one: what they send each other does not leave it."""

    def __init__(self, architecture: Architecture, seed: int, optim_config: OptimConfig) -> None:
        """The same weights for everyone, as FedGAN begins: those of client 0 and of the server in the split GAN."""
        self.device = ClientHalf(architecture, Cuts(), (seed, "gan", 0), optim_config)
        self.middle = ServerHalf(architecture, {0: Cuts()}, (seed, "gan", "server"), optim_config)

    def train(self, batches: Iterable[Batch]) -> None:
        """Train on one batch after the other."""
        link = InProcess({0: self.device}, {})
        pending: dict[int, Tensors] = {0: {}}
        for batch in batches:
            link.batches = {0: batch}
            pending, _ = train_batch(self.middle, link, pending)
        if pending[0]:
            self.device.close(pending[0]["grad_gh"])

    def blocks(self) -> Tensors:
        """The state of all blocks (see `block_name`), on the CPU."""
        return {name: value.cpu() for name, value in (self.device.blocks() | self.middle.blocks()).items()}

    def load_blocks(self, state: Mapping[str, Tensor]) -> None:
        """Take up blocks by such names."""
        own = self.device.blocks()
        self.device.load_blocks({name: value for name, value in state.items() if name in own})
        self.middle.load_blocks({name: value for name, value in state.items() if name not in own})

    def state(self) -> Tensors:
        """Weights, running statistics and Adam's moments, by name."""
        return self.device.state() | self.middle.state()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        self.device.load(dict(tensors))
        self.middle.load(tensors)

    def middle_flops(self) -> int:
        """Operations of the middle of both nets for one row of a batch."""
        return sum(PASSES[net] * self.middle.flops(0, net) for net in NETS)
