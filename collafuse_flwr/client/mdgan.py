"""The client side of MD-GAN and FSL-GAN: train a discriminator on fake images that come, and judge them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from collafuse_flwr.client.base import Handler
from collafuse_flwr.client.gan_base import GeneratorClient
from collafuse_flwr.client.split_session import Batches
from collafuse_flwr.client.state_store import ClientState
from collafuse_flwr.core.errors import UserError
from collafuse_flwr.core.tensor_io import read_tensors, write_tensors
from collafuse_flwr.gan.mdgan import Discriminator
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.gan import DiscriminatorFeedbackRequest, GanWorkRequest
from collafuse_flwr.wire.split_gan import ActivationsReply, EndRoundReply, GanTrainMetrics


@dataclass
class DiscriminatorRound:
    """A client's part in one round: its discriminator, its batches, and how far it is."""

    judge: Discriminator
    batches: Batches
    round: int
    step: int = 0
    seconds: float = 0.0
    losses: dict[str, float] = field(default_factory=lambda: {"discriminator": 0.0, "generator": 0.0})

    def answer(self, request: DiscriminatorFeedbackRequest) -> ActivationsReply:
        """Answer an iteration.

        Raises:
            UserError: another one is due.
        """
        began = time.perf_counter()
        if request.step != self.step:
            raise UserError(f"iteration {request.step} was requested; due is {self.step}")
        feedback = self._train(request)
        self.losses, self.step = dict(self.judge.losses), self.step + 1
        self.seconds += time.perf_counter() - began
        return ActivationsReply({"feedback": feedback})

    def _train(self, request: DiscriminatorFeedbackRequest) -> torch.Tensor:
        device = self.judge.runtime.device
        fake = {name: x.to(device) for name, x in request.fake.items()}
        labels = {name: y.to(device) for name, y in request.labels.items()}
        learnt = "x_d" if "x_d" in fake else "x_g"
        each = self.batches.config.mdgan.local_steps
        for step in range(self.step * each, (self.step + 1) * each):
            self.judge.learn(self.batches.draw(self.round, step), fake[learnt], labels[learnt])
        return self.judge.feedback(fake["x_g"], labels["x_g"])

    def close(self) -> EndRoundReply:
        """End the round: numbers, and the discriminator's weights."""
        config, losses = self.batches.config, self.losses
        rows = self.step * config.gan.batch_size
        images = rows * config.mdgan.local_steps
        # Six passes in each step, of fake and real images, and two for the gradient at fake ones.
        flops = (6 * images + 2 * rows) * self.judge.flops()
        metrics = GanTrainMetrics(losses["discriminator"], losses["generator"], self.step, images, self.seconds, flops)
        return EndRoundReply(metrics, self.judge.weights())

    def remember(self) -> dict[str, Any]:
        """How far this round is, in plain values."""
        return {"round": self.round, "step": self.step, "seconds": self.seconds, "losses": self.losses}


class MdGanClient(GeneratorClient):
    """A client of MD-GAN (arXiv 1811.03850) or FSL-GAN (arXiv 2207.01750), with a discriminator and no generator.

    After every iteration its disk has all it needs for the next, whatever process that comes to. Images and their
    labels stay with it; its discriminator goes to the server, and by way of that to another client, or into the mean.
    """

    def handlers(self) -> Mapping[str, Handler]:
        """The iterations and the end of a round; samples."""
        return {
            "train.feedback": (DiscriminatorFeedbackRequest, self.on_feedback),
            "train": (GanWorkRequest, self.on_train),
            "evaluate": (GanWorkRequest, self.on_evaluate),
        }

    def _begins_round(self, request: Any) -> bool:
        """Of the iterations of a round, the first."""
        if isinstance(request, DiscriminatorFeedbackRequest):
            return request.step == 0
        return super()._begins_round(request)

    def on_feedback(self, request: DiscriminatorFeedbackRequest) -> ActivationsReply:
        """Answer an iteration."""
        begins = request.step == 0
        self._check_steps((request.step + 1) * self.config.mdgan.local_steps)
        playing = self.open_round(request.round, request.weights) if begins else self._load_session(request.round)
        reply, own = playing.answer(request), playing.remember() | {"begun_by": self._begun_by}
        write_tensors(self._working(), playing.judge.state(), {"remembered": json.dumps(own)})
        return reply

    def on_train(self, request: GanWorkRequest) -> EndRoundReply:
        """End a round."""
        playing = self._load_session(request.round)
        self._check_trained(playing.step * self.config.mdgan.local_steps)
        reply = playing.close()
        self.keep_round(playing)
        self._working().unlink()
        return reply

    def open_round(self, round_: int, weights: Weights) -> DiscriminatorRound:
        """Begin a round with the last one's state, under weights that came from others."""
        playing = self._fresh(round_)
        _, tensors = self.store.load(before=round_)
        playing.judge.load(tensors)
        playing.judge.load_weights(weights)
        return playing

    def keep_round(self, playing: DiscriminatorRound) -> None:
        """Keep the state after a round."""
        self.store.save(ClientState(round=playing.round, first_round=1), playing.judge.state())

    def _load_session(self, round_: int) -> DiscriminatorRound:
        """A round as its last iteration left it.

        Raises:
            UserError: it has not begun, or in another run or under other settings.
        """
        path = self._working()
        not_begun = UserError(f"round {round_} has not begun for this client")
        if not path.is_file():
            raise not_begun
        tensors, metadata = read_tensors(path)
        progress = json.loads(metadata["remembered"])
        if (progress["round"], progress.get("begun_by")) != (round_, self._begun_by):
            raise not_begun
        playing = self._fresh(round_)
        playing.step, playing.seconds, playing.losses = progress["step"], progress["seconds"], progress["losses"]
        playing.judge.load(tensors)
        return playing

    def _fresh(self, round_: int) -> DiscriminatorRound:
        config = self.config
        owner = self.client if config.split_gan.init == "independent" else 0
        judge = Discriminator(self._architecture(), (config.run.seed, "gan", owner), self._optim_config())
        return DiscriminatorRound(judge, self._batches(), round_)

    def _working(self) -> Path:
        return self.store.layout.discriminator_round
