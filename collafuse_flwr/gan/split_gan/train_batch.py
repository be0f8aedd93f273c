"""One batch of split training, by six round trips with every client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from collafuse_flwr.gan.split_gan.activation_bounds import capped
from collafuse_flwr.gan.split_gan.client_half import Batch, ClientHalf
from collafuse_flwr.gan.split_gan.factored_gradients import expand
from collafuse_flwr.gan.split_gan.ops import Tensors
from collafuse_flwr.gan.split_gan.server_half import ByClient, ServerHalf


class Transport(Protocol):
    """How a server reaches its clients: in this process, or by messages."""

    def call(self, phase: str, payloads: Mapping[int, Tensors]) -> dict[int, Tensors]:
        """Let clients answer a phase (see PHASES); those that do not answer are missing."""
        ...


class InProcess:
    """Clients' halves in the same process."""

    def __init__(self, halves: Mapping[int, ClientHalf], batches: Mapping[int, Batch]) -> None:
        """`batches` is what each client draws next."""
        self.halves, self.batches = halves, batches

    def call(self, phase: str, payloads: Mapping[int, Tensors]) -> dict[int, Tensors]:
        """Call the clients one after the other."""
        return {client: self._answer(client, phase, received) for client, received in payloads.items()}

    def _answer(self, client: int, phase: str, received: Tensors) -> Tensors:
        half = self.halves[client]
        if phase != "latent":
            return half.answer(phase, received)
        if "grad_gh" in received:
            half.close(received["grad_gh"])
        return half.begin(self.batches[client])


def train_batch(
    server: ServerHalf, link: Transport, pending: Mapping[int, Tensors]
) -> tuple[dict[int, Tensors], ByClient]:
    """Train on one batch of every client in `pending`: what is pending for the next, and D's features of real images.

    `pending` holds each client's grad_gh of the batch before (an empty dict if there is none). A client that does not
    answer a phase is left out from there on: its rows are lost, the others go on. What one sends counts for a multiple
    of what most send at most (activation_bounds.py).

    The order is that of an undivided step: D on fake images before real ones, in two passes; D is trained; then G
    through the D that was just trained.
    """
    latent = link.call("latent", pending)
    generated = server.forward("generator", _all(latent, "gh"))
    shown = link.call("fake", _each(gt=generated.outputs))
    on_fake = server.forward("discriminator", _all(shown, "dh_fake"))
    on_real = server.forward("discriminator", _all(shown, "dh_real"))
    judged = _whole(link.call("judge", _each(dt_fake=on_fake.outputs, dt_real=on_real.outputs)), on_fake.outputs)
    at_fake, at_real = on_fake.back(_all(judged, "grad_dt_fake")), on_real.back(_all(judged, "grad_dt_real"))
    server.step("discriminator")
    again = link.call("discriminator", _each(grad_dh_fake=at_fake, grad_dh_real=at_real))
    on_fake = server.forward("discriminator", _all(again, "dh"), train_weights=False)
    scored = _whole(link.call("score", _each(dt=on_fake.outputs)), on_fake.outputs)
    at_dh = on_fake.back(_all(scored, "grad_dt"))
    last = _whole(link.call("generator", _each(grad_dh=at_dh)), generated.outputs)
    at_gh = generated.back(_all(last, "grad_gt"))
    server.step("generator")
    return _each(grad_gh=at_gh), on_real.features


def _whole(answers: Mapping[int, Tensors], at: ByClient) -> dict[int, Tensors]:
    """Answers in which gradients at a cut, where rows look as in `at`, are no longer in factors."""
    return {client: expand(tensors, at[client].shape[1:]) for client, tensors in answers.items()}


def _all(answers: Mapping[int, Tensors], name: str) -> dict[int, Tensor]:
    return capped({client: tensors[name] for client, tensors in answers.items()})


def _each(**named: ByClient) -> dict[int, Tensors]:
    clients = next(iter(named.values()))
    return {client: {name: values[client].detach() for name, values in named.items()} for client in clients}
