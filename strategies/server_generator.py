"""What servers with a generator of their own do: it is taught by the discriminators of all clients."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import Grid
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.gan.mdgan import Discriminator, Generator, draw_codes, shares
from collafuse_flwr.gan.split_gan.activation_bounds import capped
from collafuse_flwr.runs.history import Checkpoint
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.common import ClientInfo
from collafuse_flwr.wire.gan import DiscriminatorFeedbackRequest, GanWorkRequest
from collafuse_flwr.wire.split_gan import ActivationsReply
from collafuse_flwr.wire.validation import check_activations
from strategies.gan_base import GeneratorStrategy
from strategies.server_model import ServerWork, weights

#: In place of a client: every client that has no discriminator of its own among those that are given out.
EVERYONE = -1
#: Fake images by batch, with their graphs, and their labels.
Made = tuple[list[Tensor], list[Tensor]]


class ServerGeneratorStrategy(GeneratorStrategy):
    """A generator on the server, and a discriminator in every client.

    An iteration is one round trip: the server makes k batches, every client takes L steps on one of them and sends the
    gradient of its loss at another, and the generator takes a step on the mean. At the end of a round clients send
    their discriminators, and begin the next one with those that `_redistribute` gives them. A round has as many
    iterations as the split GAN has batches (setup/gan.py). The global arrays are the generator.
    """

    generator: Generator

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take in the discriminators, and give them out anew."""
        self._gather_training(replies)
        received, self.received = self.received, {}
        with self._threads():
            self._redistribute(received)
        return self._arrays(), self._close_training()

    @abstractmethod
    def _redistribute(self, received: Mapping[int, Weights]) -> None:
        """Set in `given` the discriminators that clients, or `EVERYONE`, begin the next round with."""

    def _fresh_weights(self, client: int) -> Weights:
        """The discriminator that a client begins a round with; nothing where it goes on with its own."""
        return self.discriminators.get(client, self.discriminators.get(EVERYONE, {}))

    def _num_batches(self) -> int:
        """k, the batches that the server makes in an iteration for all clients."""
        return 1

    def _build(self, client_info: ClientInfo) -> None:
        super()._build(client_info)
        name = (self.config.run.seed, "gan", "server")
        self.generator = Generator(self.architecture, name, self.optim_config)
        self.like = Discriminator(self.architecture, name, self.optim_config).weights()
        self.discriminators: dict[int, Weights] = {}

    def _before_training(self, grid: Grid, round_: int) -> None:
        """All iterations of a round, with fewer clients where some fall silent."""
        began, config, steps, self.waited = time.perf_counter(), self.config.gan, self._steps(), 0.0
        playing: dict[int, Any] = {}
        if config.transport == "in_process":
            playing = {client: self._open_here(round_, client) for client in self.selected}
        made_in_all = 0
        for step in range(steps):
            self.progress.step("batches", step, steps)
            count = min(self._num_batches(), len(self.selected))
            chosen = shares(self.selected, count)
            fake = self._make(round_, step, count)
            requests = {client: self._request(round_, step, client, fake, *chosen[client]) for client in chosen}
            feedback: dict[int, Tensor] = {}
            self._exchange(grid, playing, requests, partial(self._accept_feedback, feedback))
            judged = {client: (chosen[client][1], x) for client, x in capped(feedback).items()}
            self.generator.optimizer_step(fake[0], judged)
            made_in_all += len(fake[0])
            self.selected = sorted(feedback)
            if not self.selected:
                break
        rows = made_in_all * config.batch_size
        # A step of the generator is three passes of every batch: forwards, and back to its weights and inputs.
        seconds = time.perf_counter() - began - self.waited
        work = ServerWork(math.nan, step + 1, rows, seconds, 3 * rows * self.generator.flops())
        self.history.rounds[-1].server = asdict(work) | {"pool": 0}
        if config.transport == "in_process":
            for client in self.selected:
                self._end_here(client, playing[client], lambda own, _: own.close())
            self.selected = []

    def _make(self, round_: int, step: int, count: int) -> Made:
        """The batches of an iteration."""
        fake: Made = [], []
        for batch in range(count):
            generator = named_generator(self.config.run.seed, "fake", round_, step, batch)
            z, labels = draw_codes(self.config.gan.batch_size, self.architecture.num_classes, generator)
            device = self.optim_config.runtime.device
            fake[0].append(self.generator(z.to(device), labels.to(device)))
            fake[1].append(labels)
        return fake

    def _request(
        self, round_: int, step: int, client: int, fake_batches: Made, learnt: int, judged: int
    ) -> DiscriminatorFeedbackRequest:
        """A client's two batches, or the one where they are the same; at first its new discriminator."""
        chosen = {"x_g": judged} | ({"x_d": learnt} if learnt != judged else {})
        fake = {name: fake_batches[0][batch].detach() for name, batch in chosen.items()}
        labels = {name: fake_batches[1][batch] for name, batch in chosen.items()}
        fresh = self._fresh_weights(client) if step == 0 else {}
        return DiscriminatorFeedbackRequest(round_, step, fake, labels, fresh)

    def _exchange(
        self,
        grid: Grid,
        playing: Mapping[int, Any],
        requests: Mapping[int, DiscriminatorFeedbackRequest],
        accept: Callable[[int, ActivationsReply], None],
    ) -> None:
        """One round trip with the clients, at the other end of messages or in this process."""
        began = time.perf_counter()
        if self.config.gan.transport == "messages":
            self._round_trip(grid, requests, "train.feedback", ActivationsReply, accept)
        else:
            for client, request in requests.items():
                self._round_trip_here(client, request, playing[client].answer, ActivationsReply, accept)
        self.waited += time.perf_counter() - began

    def _open_here(self, round_: int, client: int) -> Any:
        """Begin the round of a client in this process; what it lets out is noted once a round, as of messages."""
        here = self.clients(client)
        begin = DiscriminatorFeedbackRequest(round_, 0, {}, {}, {})
        here.noted("train.feedback", begin, lambda _: ActivationsReply({}))
        return here.open_round(round_, self._fresh_weights(client))

    def _accept_feedback(self, feedback: dict[int, Tensor], client: int, reply: ActivationsReply) -> None:
        """Take in one client's gradient.

        Raises:
            UploadError: it does not fit.
        """
        image = (self.architecture.channels, self.architecture.size, self.architecture.size)
        check_activations(reply.activations, {"feedback": torch.Size((self.config.gan.batch_size, *image))})
        feedback[client] = reply.activations["feedback"]

    def _train_request(self, client: int, round_: int) -> GanWorkRequest:
        """The round is over: for it the client sends its discriminator."""
        return GanWorkRequest(round_, 0, {})

    def _template(self, client: int) -> Weights:
        return self.like

    def _generators(self) -> dict[str, Weights]:
        return {"": self.generator.weights()}

    def _arrays(self) -> ArrayRecord:
        return ArrayRecord(self.generator.weights())

    def _load_initial(self, arrays: ArrayRecord) -> None:
        self.generator.load_weights(weights(arrays))

    def _checkpoint(self) -> Checkpoint:
        own = {f"client {c}": discriminator for c, discriminator in self.discriminators.items()}
        return Checkpoint({"generator": self.generator.state()} | own)

    def _restore(self, checkpoint: Checkpoint) -> None:
        own = dict(checkpoint.tensors)
        self.generator.load(own.pop("generator"))
        self.discriminators = {
            int(place.split()[1]): {name: x.cpu() for name, x in parts.items()} for place, parts in own.items()
        }
