"""What every client does, whatever it trains: introduce itself, answer messages and keep a secret."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from flwr.app import RecordDict
from torch import Tensor

from collafuse_flwr.client.policy import BEYOND, NUMBERS, Policy
from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import PolicyError, UploadError, UserError
from collafuse_flwr.core.rng import derive_seed
from collafuse_flwr.core.runtime import choose_runtime
from collafuse_flwr.data.conditioning import num_attributes
from collafuse_flwr.data.federated import ClientData
from collafuse_flwr.data.images import normalize
from collafuse_flwr.evaluation.distances import kernel_distance
from collafuse_flwr.evaluation.features import PixelFeatures
from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.wire.codec import Metrics, decode, encode
from collafuse_flwr.wire.collafuse import CutReport
from collafuse_flwr.wire.common import ClientInfo, ClientInfoRequest
from collafuse_flwr.wire.validation import check_finite

#: The messages that begin a round, or samples, with activations; one that has begun is ended.
BEGIN_ACTIVATIONS = ("train.split", "train.feedback", "evaluate.latent")
#: The type of a message's content, and what makes the answer to it.
Handler = tuple[type[Any], Callable[[Any], object]]


class BaseClient(ABC):
    """One client for the length of one message; all that lasts is in its store."""

    #: The cut step: agreed on at the start, or that of the message.
    cut: int

    def __init__(
        self,
        client: int,
        config: Config,
        data: ClientData,
        store: ClientStore,
        *,
        seeded_secret: bool,
        run: str = "",
        policy: Policy | None = None,
    ) -> None:
        """The client with these images and this disk; in a simulation its secret follows from the seed.

        `run` names the run on its ledger; without a `policy` it has no limits.

        Raises:
            SettingError, DataError: the settings do not fit the images.
            PolicyError: the images, or the cut, are beyond the owner's limits.
        """
        self.client, self.config, self.data, self.store = client, config, data, store
        self.seeded_secret, self.policy = seeded_secret, policy
        if policy is not None:
            policy.check_images(len(data.train), data.train.pixels.shape[-1])
        #: Whether the weights that an answer holds were trained by DP-SGD alone.
        self.dp_sgd = False
        #: What else the ledger is to have of them: how they were clipped and noised.
        self.update_noise: dict[str, Any] = {}
        self.ledger = Ledger(store.layout.ledger, run, durable=not seeded_secret)
        self.runtime = choose_runtime(config.run.device, config.run.precision)
        #: How activations travel.
        self.wire_dtype = config.gan.wire_dtype if config.spec.is_gan else "float32"

    @abstractmethod
    def handlers(self) -> Mapping[str, Handler]:
        """What answers each type of message, beside the introduction."""

    def answer(self, kind: str, content: RecordDict) -> RecordDict:
        """Answer a message; what leaves is on the ledger before.

        Raises:
            UserError: the strategy has no such message, its content does not fit, or its round is over.
        """
        introduction: Handler = ClientInfoRequest, lambda _: self.client_info()
        handlers = {"query.client_info": introduction, **self.handlers()}
        if kind not in handlers:
            raise UserError(f"`strategy` = {self.config.run.strategy} has no message {kind}")
        request_type, act = handlers[kind]
        request = decode(request_type, content, self.wire_dtype)
        self._check_numbers(request)
        with self.store.lock():
            reply = self.noted(kind, request, act)
        return encode(reply, self.wire_dtype)

    def _check_numbers(self, request: Any) -> None:
        """Refuse tensors that are no numbers; it hangs on the message alone, so its sender may know why.

        Raises:
            UploadError, or PolicyError with an owner: a value is not finite, or too large.
        """
        try:
            for name, value in vars(request).items():
                if isinstance(value, Tensor):
                    check_finite("arrays", {name: value})
                elif isinstance(value, dict):
                    check_finite(name, value)
        except UploadError as error:
            raise self._refusal(str(error)) from None

    def _refusal(self, what: str) -> UserError:
        """The error of a request that does not fit; it hangs on the request alone, so its sender may know why."""
        return UploadError(what) if self.policy is None else PolicyError(f"{BEYOND}: {what}")

    def noted(self, kind: str, request: Any, act: Callable[[Any], Any]) -> Any:
        """The answer of `act` to a request, as it may leave; it is on the ledger, whoever carries it.

        Raises:
            RoundError: the round is over.
            PolicyError: activations have left often enough.
        """
        if begins := self._begins_round(request):
            if self.policy is not None and kind in BEGIN_ACTIVATIONS:
                self.policy.check_activation_rounds(self.ledger.count("activations"))
            self.ledger.begin(kind, request.round)
        reply = self._withheld(act(request))
        self._note(kind, reply, begins)
        return reply

    def _begins_round(self, request: Any) -> bool:
        """Whether a message is the first of its kind in a round."""
        return hasattr(request, "round")

    def _withheld(self, reply: Any) -> Any:
        """A reply whose numbers are as its owner lets them leave."""
        if self.policy is None:
            return reply
        before = self.ledger.count("numbers", about_images=True)
        if isinstance(reply, Metrics):
            return self.policy.reported(reply, self._averaged_over(reply), before)
        if metrics := vars(reply).get("metrics"):
            return replace(reply, metrics=self.policy.reported(metrics, self._averaged_over(metrics), before))
        return reply

    def _max_loss(self) -> float:
        """What the loss of an image counts as at most in the ones that are reported."""
        return math.inf if self.policy is None else self.policy.max_number

    def _averaged_over(self, metrics: Metrics) -> dict[str, int]:
        """How many different images each number is an average of, or samples where these are fewer."""
        held_out, train, reported = len(self.data.held_out), len(self.data.train), vars(metrics)
        images = reported.get("image_updates", 0)
        if self.config.spec.is_gan:
            # It is the loss of its last batch.
            images = self.config.gan.batch_size
        elif self.config.dp.noise_multiplier:
            # Batches of DP-SGD are drawn one by one, and may be of the same images.
            images = math.ceil(images / max(1, reported.get("steps", 1)))
        losses = dict.fromkeys(("loss", "generator_loss"), min(images, train))
        distance = min(held_out, reported.get("num_samples", 0))
        return losses | {"held_out_loss": held_out, "kernel_distance": distance, "bits": train}

    def _note(self, kind: str, reply: object, begins: bool) -> None:
        """Write on the ledger what leaves, beside releases, which are noted where they are made."""
        parts = vars(reply)
        numbers = reply if isinstance(reply, Metrics) else parts.get("metrics")
        if numbers is not None:
            values = {name: value for name, value in vars(numbers).items() if value is not None}
            own = {"about_images": True} if values.keys() & set(NUMBERS) else {}
            # An introduction, which no round counts, says the same whenever it comes.
            note = self.ledger.add_once if kind == "query.client_info" else self.ledger.add
            note("numbers", message=kind, values=values, **own)
        sent = [own for name in ("weights", "averaged") for own in parts.get(name, {}).values()]
        if sent:
            own = {"values": sum(value.numel() for value in sent), "dp_sgd": self.dp_sgd} | self.update_noise
            bounded = self.dp_sgd or "noise_multiplier" in own
            self.ledger.add("weights", message=kind, **own, unbounded=not bounded)
        if begins and "activations" in parts:
            # Once a round: its other messages are more of the same.
            self.ledger.add("activations", message=kind, **self._activations(), unbounded=True)

    def _activations(self) -> dict[str, object]:
        """What is noted of activations that leave."""
        return {}

    def client_info(self) -> ClientInfo:
        """Who this client is, where it cuts, and the shape of its images."""
        return ClientInfo(self.client, self.cut, self.config.diffusion.timesteps, len(self.data.train), *self._shape())

    def _shape(self) -> tuple[int, int, int, int]:
        """Channels and side of the images, classes, and attributes that networks are conditioned on."""
        images = self.data.train
        _, channels, size, _ = images.images.shape
        return channels, size, images.num_classes, num_attributes(self.config.data.conditioning, images)

    def _secret(self) -> bytes:
        secret = self.store.secret(self.config.run.seed if self.seeded_secret else None, self.client)
        self.ledger.check_secret(secret)
        return secret

    def _root(self) -> int | bytes:
        """What names the streams of everything that is drawn about images: nobody else can draw a deployed client's.

        They are of one run: what another one draws anew tells nothing of what this one has drawn.
        """
        if self.seeded_secret:
            return self.config.run.seed
        return hashlib.blake2b(self.ledger.run.encode(), digest_size=16, key=self._secret()).digest()

    def _note_step(self, message: str, cut: int) -> None:
        """Note on the ledger that a step of the chain is chosen by the held-out images, at this cut.

        Raises:
            PolicyError: the owner does not let that leave, or not any more.
        """
        if self.policy is not None:
            before = self.ledger.count("numbers", about_images=True)
            if self.policy.reported(CutReport(cut), {"cut": len(self.data.held_out)}, before).cut is None:
                raise PolicyError(f"{BEYOND}: `numbers`, `min_number_images` and `max_reports` let no cut leave")
        self.ledger.add("numbers", message=message, values={"cut": cut}, about_images=True)

    def _seed(self, purpose: str) -> int | bytes:
        """What begins the name of a stream that is the same in every message."""
        if self.seeded_secret:
            return derive_seed(self._root(), purpose, self.client)
        return hashlib.blake2b(purpose.encode(), digest_size=16, key=self._secret()).digest()

    def _bounded(self, samples: Tensor) -> Tensor:
        """Samples in [-1, 1]; an owner's client fails at none that is no number, which would tell of its images."""
        return (samples if self.policy is None else samples.nan_to_num(0.0)).clamp(-1, 1)

    def _distance(self, samples: Tensor) -> float:
        """Kernel distance of pixels between samples and held-out images; 0 if either is a single image."""
        held_out = normalize(self.data.held_out.pixels)
        samples = self.data.held_out.decode(samples)
        if min(len(held_out), len(samples)) < 2:
            return 0.0
        # It chooses subsets alone.
        seed = derive_seed(self._root(), "kernel", self.client)
        return kernel_distance(held_out, samples, PixelFeatures(), seed=seed).mean
