"""What the servers of FedGAN and MD-GAN do alike: how long a round is, and samples by a generator that goes out."""

from __future__ import annotations

from abc import abstractmethod

from flwr.app import RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from collafuse_flwr.files import write_tensors
from collafuse_flwr.gan.players import Generator, draw_codes
from collafuse_flwr.gan.settings import architecture_of, practice_of, steps_of
from collafuse_flwr.rng import stream
from collafuse_flwr.wire import GanRequest, Hello, Weights, pack_gan_request
from strategies.federation import KEPT_HAND_OVERS, Federation


class SharedGenerator(Federation, Strategy):
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

    def _build(self, hello: Hello) -> None:
        self.architecture = architecture_of(self.config, hello.channels, hello.size, hello.num_classes)
        self.practice = practice_of(self.config)

    def _steps(self) -> int:
        """Batches of a round: as many, for every client and for the generator, as in the split GAN."""
        return steps_of(self.config, (self.members.hellos[client].num_images for client in self.asked))

    def _before_evaluation(self, grid: Grid, round_: int) -> None:
        """Hold the generator, for the pictures."""
        self.painter = Generator(self.architecture, ("pictures",), self.practice)
        self.painter.load_weights(self._generator())

    def _evaluate_content(self, client: int, round_: int, count: int, arrays: object) -> tuple[RecordDict, Tensor]:
        """The generator, and for the pictures some images that it makes for no client in particular."""
        name = stream(self.config.run.seed, "hand over", client, round_)
        codes = draw_codes(min(count, KEPT_HAND_OVERS), self.architecture.num_classes, name)
        return pack_gan_request(GanRequest(round_, count, self._generator())), self.painter.sample(*codes)
