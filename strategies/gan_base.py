"""What the servers of all GANs do: the length of a round, clients in this process, samples by a whole generator."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from flwr.serverapp import Grid
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import threads
from collafuse_flwr.core.tensor_io import write_tensors
from collafuse_flwr.gan.aggregation import average_networks
from collafuse_flwr.gan.mdgan import Generator, draw_codes
from collafuse_flwr.setup.gan import batches_per_round, build_gan_architecture, build_optim_config
from collafuse_flwr.wire.codec import Weights, count_bytes, decode, encode
from collafuse_flwr.wire.common import ClientInfo
from collafuse_flwr.wire.gan import GanWorkRequest
from collafuse_flwr.wire.split_gan import EndRoundReply
from collafuse_flwr.wire.validation import check_weights
from strategies.base import KEPT_HANDOFFS, BaseStrategy
from strategies.fairness import cap_weights

M = TypeVar("M")
R = TypeVar("R")


class GanStrategy(BaseStrategy):
    """A federation of GANs, whose clients send weights at the end of a round."""

    train_reply = EndRoundReply

    def _build(self, client_info: ClientInfo) -> None:
        channels, size, num_classes, _ = client_info.shape
        self.architecture = build_gan_architecture(self.config, channels, size, num_classes)
        self.optim_config = build_optim_config(self.config)
        self.received: dict[int, Weights] = {}

    @abstractmethod
    def _template(self, client: int) -> Weights:
        """Weights like those that a client must send."""

    def _steps(self) -> int:
        """Batches of a round: as many for every client, and for all GANs."""
        return batches_per_round(self.config, self._sizes(self.selected).values())

    def _mean(self, received: Mapping[int, Weights]) -> Weights:
        """The mean of clients' networks, weighted by their images."""
        return average_networks(received, self._sizes(received))

    def _sizes(self, clients: Iterable[int]) -> dict[int, float]:
        """Images of some clients, of which no client counts for more than its largest share."""
        sizes = {client: self.client_manager.client_infos[client].num_images for client in clients}
        return cap_weights(sizes, self.config.federation.max_client_weight)

    def _accept_training(self, client: int, reply: EndRoundReply) -> None:
        check_weights("weights", reply.weights, self._template(client))
        self.received[client] = reply.weights
        self.history.rounds[-1].clients[str(client)] = asdict(reply.metrics)

    def _round_trip_here(
        self, client: int, request: R, answer: Callable[[R], object], kind: type[M], accept: Callable[[int, M], None]
    ) -> None:
        """A round trip with a client in this process, with the rounding, the bytes and the checks of messages."""
        row, dtype = self.history.rounds[-1], self.wire_dtype
        down = encode(request, dtype)
        row.count(row.bytes_down, client, count_bytes(down))
        # As many threads as it would have at the other end of messages: bits depend on it.
        with threads(self.config.resources.client_threads):
            up = encode(answer(decode(type(request), down, dtype)), dtype)
        row.count(row.bytes_up, client, count_bytes(up))
        self._accept(client, partial(self._read, client, up, kind, accept))

    def _end_here(self, client: int, session: Any, close: Callable[[Any, Any], EndRoundReply]) -> None:
        """End the round of a client in this process by `close` of its session and the request, as a message would."""
        request, here = self._train_request(client, self.history.rounds[-1].round), self.clients(client)

        def answer(own: object) -> object:
            reply: object = here.noted("train", own, lambda end: close(session, end))
            return reply

        self._round_trip_here(client, request, answer, self.train_reply, self._accept_training)
        here.keep_round(session)


class GeneratorStrategy(GanStrategy):
    """A federation with whole generators, for everybody or for some clients each, which make samples at the clients.

    They choose the classes, and need not tell the server which.
    """

    def save(self) -> None:
        """Write the generators."""
        kept = self._generators().items()
        write_tensors(self.layout.generator, {before + name: x for before, own in kept for name, x in own.items()})

    @abstractmethod
    def _generators(self) -> dict[str, Weights]:
        """All generators' weights, on the CPU, by what comes before their names in a file."""

    def _generator(self, client: int) -> Weights:
        """The weights of the generator that makes a client's samples: everybody's, unless there are several."""
        return self._generators()[""]

    def _before_evaluation(self, grid: Grid, round_: int) -> None:
        """Hold a generator, for the pictures."""
        self.painter = Generator(self.architecture, ("pictures",), self.optim_config)

    def _evaluate_request(self, client: int, round_: int, count: int) -> tuple[GanWorkRequest, Tensor]:
        """The client's generator, and for the pictures some images that it makes of no class in particular."""
        name = named_generator(self.config.run.seed, "hand over", client, round_)
        codes = draw_codes(min(count, KEPT_HANDOFFS), self.architecture.num_classes, name)
        own = self._generator(client)
        self.painter.load_weights(own)
        return GanWorkRequest(round_, count, own), self.painter.sample(*codes)
