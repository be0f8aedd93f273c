"""What clients do whose denoisers are averaged: what they send of theirs, and what they make of the last average."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

from torch import Tensor, nn

from collafuse_flwr.client.diffusion_base import DiffusionClient, RoundResult
from collafuse_flwr.client.state_store import ClientState
from collafuse_flwr.client.training_plan import RoundPlan
from collafuse_flwr.core.rng import keyed_generator
from collafuse_flwr.diffusion.partial_sharing import part_names
from collafuse_flwr.diffusion.train import TrainResult, TrainState
from collafuse_flwr.privacy.dp_fedavg import clipped_update, moved, noised, update_bytes
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.common import EvaluateReply
from collafuse_flwr.wire.fedavg import WeightsHandoff, WeightsRequest


class AveragedClient(DiffusionClient):
    """A client whose denoiser is averaged with those of the others."""

    #: The last round's evaluation trains the average further; what that came to.
    tunes = False
    tuned = TrainResult(0.0, 0, 0)

    def _check_start(self, request: WeightsRequest) -> None:
        """Refuse to send an update of weights that did not come: what is not clipped of it is of the client's data.

        Raises:
            UploadError, or PolicyError with an owner: some did not, or averages are wanted, which are no update.
        """
        if not self.config.averaging.clip_norm:
            return
        if request.want_averaged:
            raise self._refusal("`want_averaged` = True with `averaging.clip_norm`")
        if missing := part_names(self._network().state_dict().keys() - request.weights.keys(), request.part):
            raise self._refusal(f"`weights` lack {min(missing)}, which `part` = {request.part} is an update of")

    def _wanted_weights(self, request: WeightsRequest, result: RoundResult) -> dict[str, Weights]:
        """The `weights` and `averaged` weights that a request wants; nothing of a denoiser that took no step."""
        if result.state is None or not result.metrics.steps:
            return {"weights": {}, "averaged": {}}

        def part(weights: Weights) -> Weights:
            return {name: weights[name] for name in part_names(weights, request.part)}

        averaged = part(result.state.ema_state_dict()) if request.want_averaged else {}
        return {"weights": self._clipped(request, part(result.state.network.state_dict())), "averaged": averaged}

    def _clipped(self, request: WeightsRequest, trained: Weights) -> Weights:
        """Weights as they may leave: their update of those that came clipped, and noised, if the settings say so.

        A deployed client's noise is keyed by its secret, the run and the round, which is answered once; in a simulation
        a round that is repeated with the same update has the same noise, and with another one other noise.
        """
        own = self.config.averaging
        if not own.clip_norm or not trained:
            return trained
        received = {name: request.weights[name] for name in trained}
        update = clipped_update(trained, received, own.clip_norm)
        self.update_noise = {"clip_norm": own.clip_norm}
        if own.noise == "client":
            content = repr(("update", request.round, request.part)).encode() + update_bytes(update)
            draws = keyed_generator(self._noise_key(), content)
            update = noised(update, draws, own.noise_multiplier * own.clip_norm)
            digest = hashlib.blake2b(update_bytes(update), digest_size=16).hexdigest()
            self.update_noise |= {"noise_multiplier": own.noise_multiplier, "digest": digest}
        return moved(received, update)

    def _noise_key(self) -> bytes:
        root = self._root()
        return root if isinstance(root, bytes) else self._secret()

    def _evaluate_average(self, handoff: WeightsHandoff) -> EvaluateReply:
        """Finish samples with the federation's averaged weights; in the last round after training them further."""
        # Once in a run, whatever rounds come: no message is answered twice in one.
        self.tunes = handoff.round == self.config.run.num_rounds
        reply = self._evaluate(handoff, handoff.averaged)
        flops = self._cost(self._network()).training * self.tuned.images if self.tuned.images else 0
        return replace(reply, tuned_updates=self.tuned.images, tuned_flops=flops)

    def _averaged(self, tensors: dict[str, Tensor], averaged: Weights | None) -> nn.Module:
        network, config = super()._averaged(tensors, averaged), self.config
        images = config.averaging.finetune_epochs * len(self.data.train) * self.tunes
        if images:
            state, begins = TrainState(network, config.train.ema_decay), config.run.num_rounds + 1
            # A round of its own after the last: the learning rate falls once more from its beginning.
            work = RoundPlan(math.ceil(images / config.client.batch_size), ClientState(first_round=begins))
            self.tuned = self._train(state, begins, begins, work)
            network.load_state_dict(state.ema_state_dict())
        return network
