"""The client side of HuSCF-GAN: answer the phases of a batch, and begin and finish samples."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import RecordDict
from safetensors.torch import load_file
from torch import Tensor

from collafuse_flwr.client.gan_base import GanClient
from collafuse_flwr.client.session_store import MOVED, SessionStore
from collafuse_flwr.client.split_session import PhaseCursor, Session
from collafuse_flwr.client.state_store import ClientState
from collafuse_flwr.core.atomic_io import write_tensors
from collafuse_flwr.core.errors import SettingError, UserError
from collafuse_flwr.evaluation.cost import forward_flops
from collafuse_flwr.gan.build import build_optim_config
from collafuse_flwr.gan.networks import LATENT, Cuts
from collafuse_flwr.gan.split_gan.client_half import ClientHalf
from collafuse_flwr.wire.fedavg import Weights
from collafuse_flwr.wire.split_gan import (
    pack_activations,
    pack_end_round_reply,
    unpack_end_round_request,
    unpack_generate_head_request,
    unpack_generate_tail_request,
    unpack_split_request,
)


@dataclass(frozen=True)
class HuscfGanClient(GanClient):
    """A client of the split GAN (arXiv 2507.12979) for the length of one message.

    Images, labels and codes stay with it. After every phase its disk has all it needs for the next, whatever process
    that comes to; its weights and Adam's moments are kept round by round as in every other strategy.
    """

    def on_split(self, content: RecordDict) -> RecordDict:
        """Answer a phase of a batch (message train.split)."""
        request = unpack_split_request(content)
        begins = request.step == 0 and request.phase == "latent"
        if begins:
            session = self.open_round(request.round, request.cuts, request.weights)
        else:
            session = self._under_way(request.round, request.cuts)
        sent = session.answer(request.step, request.phase, request.tensors)
        self._workspace().save(session, None if begins else MOVED[request.phase])
        return pack_activations(sent, self.setup.config.gan.wire_dtype)

    def on_train(self, content: RecordDict) -> RecordDict:
        """End a round."""
        request = unpack_end_round_request(content)
        session = self._under_way(request.round, request.cuts)
        reply = session.close(request.tensors)
        self.keep_round(session)
        self._workspace().clear()
        return pack_end_round_reply(reply)

    def on_latent(self, content: RecordDict) -> RecordDict:
        """Begin samples: what the generator's head makes of fresh codes and labels; without weights, its own does."""
        request = unpack_generate_head_request(content)
        blocks = request.weights or self.open_round(request.round + 1, request.cuts, {}).half.blocks()
        write_tensors(self._generator_path(), {n: value for n, value in blocks.items() if n.startswith("generator.")})
        half = self._generator(request.cuts)
        device = half.runtime.device
        labels = self._labels(request.count, request.round)
        z = self._codes(request.count, request.round)
        with torch.no_grad():
            gh = half.parts["g_head"](z.to(device), labels.to(device))
        return pack_activations({"gh": gh}, self.setup.config.gan.wire_dtype)

    def on_evaluate(self, content: RecordDict) -> RecordDict:
        """Finish samples, keep them, and compare them to held-out images."""
        request, began = unpack_generate_tail_request(content), time.perf_counter()
        half = self._generator(request.cuts)
        with torch.no_grad():
            samples: Tensor = half.parts["g_tail"](request.gt.to(half.runtime.device)).cpu()
        one = torch.zeros((1, LATENT), device=half.runtime.device), torch.zeros(1, dtype=torch.int64)
        flops = forward_flops(half.parts["g_head"], one[0], one[1].to(half.runtime.device))
        flops += forward_flops(half.parts["g_tail"], request.gt[:1].to(half.runtime.device))
        labels = self._labels(len(samples), request.round)
        # Activations of the images themselves have left: no bound holds.
        return self._measured(samples, labels, flops, bits=math.inf, began=began)

    def open_round(self, round_: int, cuts: str, weights: Weights) -> Session:
        """A session for a round: the last round's state, under the blocks that the server has averaged since.

        Raises:
            SettingError: the cuts leave to the server what `min_d_head` keeps from it.
        """
        session = self._session(cuts)
        _, tensors = self.store.load(before=round_)
        session.half.load(tensors)
        session.half.load_blocks(weights)
        session.progress = PhaseCursor(round_)
        return session

    def keep_round(self, session: Session) -> None:
        """Keep a session's state as that after its round."""
        self.store.save(ClientState(round=session.progress.round, first_round=1), session.half.state())

    def _under_way(self, round_: int, cuts: str) -> Session:
        """The session of a round that has begun.

        Raises:
            UserError: another has.
        """
        session = self._workspace().load(lambda: self._session(cuts))
        if session.progress.round != round_:
            raise UserError(f"round {round_} was asked for; under way is round {session.progress.round}")
        return session

    def _session(self, cuts: str) -> Session:
        own, least = Cuts.parse(cuts), self.setup.config.gan.min_d_head
        if own.d_head < least:
            raise SettingError("min_d_head", least, f"at most {own.d_head}: the server asked for the cuts {cuts}")
        config, optim_config = self.setup.config, build_optim_config(self.setup.config)
        return Session.open(config, self._architecture(), own, self.client, optim_config, self._batches())

    def _generator(self, cuts: str) -> ClientHalf:
        """The half of the nets with the generator that samples."""
        half = ClientHalf(self._architecture(), Cuts.parse(cuts), ("samples",), build_optim_config(self.setup.config))
        half.load_blocks(load_file(self._generator_path()))
        for part in half.parts.values():
            part.eval()
        return half

    def _generator_path(self) -> Path:
        return self.store.folder / "generator.safetensors"

    def _workspace(self) -> SessionStore:
        return SessionStore(self.store.folder / "working")
