"""The client side of HuSCF-GAN: answer the phases of a batch, and begin and finish samples."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from collafuse_flwr.client.base import Handler
from collafuse_flwr.client.gan_base import GanClient
from collafuse_flwr.client.session_store import MOVED, SessionStore
from collafuse_flwr.client.split_session import PhaseCursor, Session
from collafuse_flwr.client.state_store import ClientState
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import PolicyError, SettingError, UserError
from collafuse_flwr.core.fields import plain
from collafuse_flwr.core.tensor_io import read_tensors, write_tensors
from collafuse_flwr.evaluation.cost import forward_flops
from collafuse_flwr.gan.networks import LATENT, Architecture, Cuts
from collafuse_flwr.gan.split_gan.block_moments import (
    block_moments,
    cuts_of,
    every_moment,
    leaving,
    load_block_moments,
    moments_template,
)
from collafuse_flwr.gan.split_gan.client_half import ClientHalf
from collafuse_flwr.setup.gan_cuts import select_cuts
from collafuse_flwr.setup.gan_recuts import check_recut
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.common import EvaluateReply
from collafuse_flwr.wire.split_gan import (
    ActivationsReply,
    EndRoundReply,
    EndRoundRequest,
    GenerateHeadRequest,
    GenerateTailRequest,
    SplitRequest,
)


class HuscfGanClient(GanClient):
    """A client of the split GAN (arXiv 2507.12979) for the length of one message.

    Images, labels and codes stay with it. After every phase its disk has all it needs for the next, whatever process
    that comes to; its weights and Adam's moments are kept round by round as in every other strategy.
    """

    def handlers(self) -> Mapping[str, Handler]:
        """The phases of a batch and the end of a round; both halves of samples."""
        return {
            "train.split": (SplitRequest, self.on_split),
            "train": (EndRoundRequest, self.on_train),
            "evaluate.latent": (GenerateHeadRequest, self.on_latent),
            "evaluate": (GenerateTailRequest, self.on_evaluate),
        }

    def _begins_round(self, request: Any) -> bool:
        """Of the phases of a round's batches, the first."""
        if isinstance(request, SplitRequest):
            return (request.step, request.phase) == (0, "latent")
        return super()._begins_round(request)

    def _activations(self) -> dict[str, object]:
        return {"images": len(self.data.train), "noise": self.config.split_gan.activation_noise}

    def on_split(self, request: SplitRequest) -> ActivationsReply:
        """Answer a phase of a batch."""
        begins = request.step == 0 and request.phase == "latent"
        self._check_steps(request.step + 1)
        if begins:
            session = self.open_round(request.round, request.cuts, request.weights)
        else:
            session = self._under_way(request.round, request.cuts)
        sent = session.answer(request.step, request.phase, request.activations)
        self._workspace().save(session, None if begins else MOVED[request.phase])
        return ActivationsReply(sent)

    def on_train(self, request: EndRoundRequest) -> EndRoundReply:
        """End a round."""
        session = self._under_way(request.round, request.cuts)
        reply = self.close_round(session, request)
        self.keep_round(session)
        self._workspace().clear()
        return reply

    def close_round(self, session: Session, request: EndRoundRequest) -> EndRoundReply:
        """End a round; with the weights go the moments of blocks that the next cuts leave to the server.

        They stay, and so do the cuts, where the owner keeps these blocks.

        Raises:
            SettingError: the settings allow no such cuts, or not now.
        """
        self._check_trained(session.progress.step + 1)
        after = None if request.next_cuts is None else self._next_cuts(request)
        reply, split = session.close(request.activations), self.config.split_gan
        if after is None:
            return reply
        left = leaving(session.cuts, after, session.architecture)
        wanted = moments_template(session.architecture, left, averaged=bool(split.ema))
        moments = {name: value.cpu() for name, value in block_moments(session.half, wanted).items()}
        return replace(reply, weights=reply.weights | moments)

    def _next_cuts(self, request: EndRoundRequest) -> Cuts | None:
        """The cuts of the next round; None where the owner does not allow them.

        Raises:
            SettingError: the settings allow no such cuts, or not now.
        """
        every = self.config.split_gan.replan_rounds
        if not every or request.round % every:
            allowed = f"a divisor of {request.round}, after which the server moves the cuts to {request.next_cuts}"
            raise SettingError("split_gan.replan_rounds", every, allowed)
        try:
            return self._check_cuts(str(request.next_cuts))
        except PolicyError:
            return None

    def on_latent(self, request: GenerateHeadRequest) -> ActivationsReply:
        """Start samples: the generator's head (without weights, the client's own) on new codes and labels."""
        self._check_count(request.count)
        self._check_cuts(request.cuts)
        blocks = self._sampling_blocks(request)
        generator = {name: value for name, value in blocks.items() if name.startswith("generator.")}
        write_tensors(self.store.layout.generator, generator)
        half = self._generator(request.cuts)
        device = half.runtime.device
        labels = self._labels(request.count, request.round)
        z = self._codes(request.count, request.round)
        with torch.no_grad():
            gh = half.parts["g_head"](z.to(device), labels.to(device))
        return ActivationsReply({"gh": gh})

    def on_evaluate(self, request: GenerateTailRequest) -> EvaluateReply:
        """Finish samples, keep them, and compare them to held-out images."""
        self._check_cuts(request.cuts)
        began, half = time.perf_counter(), self._generator(request.cuts)
        self._check_count(len(request.activations["gt"]))
        device = half.runtime.device
        gt = request.activations["gt"].to(device)
        with torch.no_grad():
            samples: Tensor = half.parts["g_tail"](gt).cpu()
        one = torch.zeros((1, LATENT), device=device), torch.zeros(1, dtype=torch.int64, device=device)
        flops = forward_flops(half.parts["g_head"], *one) + forward_flops(half.parts["g_tail"], gt[:1])
        labels = self._labels(len(samples), request.round)
        # Activations of the images themselves have left: no bound holds.
        return self._keep(samples, labels, flops, bits=math.inf, began=began)

    def _sampling_blocks(self, request: GenerateHeadRequest) -> Weights:
        """The client's blocks that make samples: their average over its steps, where it keeps one and has trained last.

        Else those that came, or its own.
        """
        state, _ = self.store.load(before=request.round + 1)
        averaged = bool(self.config.split_gan.ema) and state.round == request.round
        if request.weights and not averaged:
            return request.weights
        half = self.open_round(request.round + 1, request.cuts, {}).half
        return half.blocks() | half.averaged_blocks()

    def open_round(self, round_: int, cuts: str, weights: Weights) -> Session:
        """A session for a round: the last round's state, under the blocks that the server has averaged since.

        Raises:
            SettingError: the cuts are not those of the settings, or leave to the server what `split_gan.min_cut` keeps.
            PolicyError: they leave it what the client's owner keeps.
        """
        session = self._session(cuts)
        _, tensors = self.store.load(before=round_)
        moments = {name: value for name, value in weights.items() if ":" in name}
        if weights and self.config.split_gan.reset_moments:
            tensors = {name: value for name, value in tensors.items() if not name.startswith("adam.")}
            moments = {name: value for name, value in moments.items() if name.startswith("ema:")}
        self._load(session, tensors)
        session.half.load_blocks(weights)
        load_block_moments(session.half, moments)
        if weights:
            session.half.begin_round()
        session.progress = PhaseCursor(round_)
        return session

    def _load(self, session: Session, tensors: Weights) -> None:
        """Take up the state of the last round; where it was cut elsewhere, what there is of the session's blocks."""
        if not tensors or (before := cuts_of(tensors)) == session.cuts:
            session.half.load(tensors)
            return
        kept = self._open(before).half
        kept.load(tensors)
        template = session.cuts.template(session.architecture)
        session.half.load_blocks({name: value for name, value in kept.blocks().items() if name in template})
        load_block_moments(session.half, every_moment(kept))

    def keep_round(self, session: Session) -> None:
        """Keep a session's state as that after its round."""
        self.store.save(ClientState(round=session.progress.round, first_round=1), session.half.state())

    def _under_way(self, round_: int, cuts: str) -> Session:
        """The session of a round that has begun.

        Raises:
            UserError: another has.
        """
        session = self._workspace().load(self._session)
        if session.progress.round != round_:
            raise UserError(f"round {round_} was requested; under way is round {session.progress.round}")
        if str(session.cuts) != cuts:
            raise UserError(f"round {round_} was requested with the cuts {cuts}; it began with {session.cuts}")
        return session

    def _session(self, cuts: str) -> Session:
        return self._open(self._check_cuts(cuts))

    def _open(self, cuts: Cuts) -> Session:
        optim_config = self._optim_config()
        return Session.open(self.config, self._architecture(), cuts, self.client, optim_config, self._batches())

    def _check_cuts(self, cuts: str) -> Cuts:
        """The cuts of a message, if they are those of the settings or, where cuts move, within their limits."""
        own, least = Cuts.parse(cuts), self.config.split_gan.min_cut
        if own.d_head < Cuts.parse(least).d_head:
            allowed = f"at most {own.d_head}: the server requested the cuts {cuts}"
            raise SettingError("split_gan.min_cut", least, allowed)
        if self.config.split_gan.replan_rounds:
            _check_recut(self.config, self._architecture(), self.client, own)
        elif own != _cuts(self.config, self._architecture())[self.client]:
            allowed = f"as in the messages: the server requested the cuts {cuts}"
            raise SettingError("split_gan.client_cuts", plain(self.config.split_gan.client_cuts), allowed)
        if self.policy is not None:
            self.policy.check_split(own.d_head)
        return own

    def _generator(self, cuts: str) -> ClientHalf:
        """The half of the nets with the generator that samples."""
        half = ClientHalf(self._architecture(), Cuts.parse(cuts), ("samples",), self._optim_config())
        half.load_blocks(read_tensors(self.store.layout.generator)[0])
        for part in half.parts.values():
            part.eval()
        return half

    def _workspace(self) -> SessionStore:
        return SessionStore(self.store.layout.session, self._begun_by)


@cache
def _cuts(config: Config, architecture: Architecture) -> tuple[Cuts, ...]:
    """Every client's cuts, as the server finds them; a planner takes its time, and a phase comes every moment."""
    return select_cuts(config, architecture)


#: A phase comes every moment.
_check_recut = cache(check_recut)
