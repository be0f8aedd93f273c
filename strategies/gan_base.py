"""What the servers of FedGAN and MD-GAN do alike: how long a round is, and samples by a generator that goes out."""

from __future__ import annotations

from abc import abstractmethod

from flwr.app import RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from collafuse_flwr.core.atomic_io import write_tensors
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.gan.build import batches_per_round, build_gan_architecture, build_optim_config
from collafuse_flwr.gan.mdgan import Generator, draw_codes
from collafuse_flwr.wire.collafuse import ClientInfo
from collafuse_flwr.wire.fedavg import Weights
from collafuse_flwr.wire.gan import GanWorkRequest, pack_gan_work_request
from strategies.base import KEPT_HANDOFFS, BaseStrategy


class GanStrategy(BaseStrategy, Strategy):
    """A federation with one generator for everybody, which makes samples at the clients.

    They choose the classes, and need not tell the server which.
    """

    def save(self) -> None:
        """Write the generator."""
        write_tensors(self.folder / "server" / "generator.safetensors", self._generator())

    def _cuts_in_words(self) -> str:
        return ""

    @abstractmethod
    def _generator(self) -> Weights:
        """The generator's weights, on the CPU."""

    def _build(self, client_info: ClientInfo) -> None:
        self.architecture = build_gan_architecture(
            self.config, client_info.channels, client_info.size, client_info.num_classes
        )
        self.optim_config = build_optim_config(self.config)

    def _steps(self) -> int:
        """Batches of a round: as many, for every client and for the generator, as in the split GAN."""
        return batches_per_round(
            self.config, (self.client_manager.client_infos[client].num_images for client in self.selected)
        )

    def _before_evaluation(self, grid: Grid, round_: int) -> None:
        """Hold the generator, for the pictures."""
        self.painter = Generator(self.architecture, ("pictures",), self.optim_config)
        self.painter.load_weights(self._generator())

    def _evaluate_content(self, client: int, round_: int, count: int, arrays: object) -> tuple[RecordDict, Tensor]:
        """The generator, and for the pictures some images that it makes for no client in particular."""
        name = named_generator(self.config.run.seed, "hand over", client, round_)
        codes = draw_codes(min(count, KEPT_HANDOFFS), self.architecture.num_classes, name)
        return pack_gan_work_request(GanWorkRequest(round_, count, self._generator())), self.painter.sample(*codes)
