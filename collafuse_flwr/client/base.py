"""What every client does, whatever it trains: introduce itself, answer messages and keep a secret."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import RecordDict
from torch import Tensor

from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import UserError
from collafuse_flwr.core.rng import derive_seed
from collafuse_flwr.core.runtime import choose_runtime
from collafuse_flwr.data.conditioning import num_attributes
from collafuse_flwr.data.federated import ClientData
from collafuse_flwr.data.images import normalize
from collafuse_flwr.evaluation.distances import kernel_distance
from collafuse_flwr.evaluation.features import PixelFeatures
from collafuse_flwr.wire.codec import decode, encode
from collafuse_flwr.wire.common import ClientInfo, ClientInfoRequest

#: The type of a message's content, and what makes the answer to it.
Handler = tuple[type[Any], Callable[[Any], object]]


class BaseClient(ABC):
    """One client for the length of one message; all that lasts is in its store."""

    #: The cut step that is agreed on at the start.
    cut: int

    def __init__(
        self, client: int, config: Config, data: ClientData, store: ClientStore, *, seeded_secret: bool
    ) -> None:
        """The client with these images and this disk; in a simulation its secret follows from the seed.

        Raises:
            SettingError, DataError: the settings do not fit the images.
        """
        self.client, self.config, self.data, self.store = client, config, data, store
        self.seeded_secret = seeded_secret
        self.runtime = choose_runtime(config.run.device, config.run.precision)
        #: How activations travel.
        self.wire_dtype = config.gan.wire_dtype if config.spec.is_gan else "float32"

    @abstractmethod
    def handlers(self) -> Mapping[str, Handler]:
        """What answers each type of message, beside the introduction."""

    def answer(self, kind: str, content: RecordDict) -> RecordDict:
        """Answer a message.

        Raises:
            UserError: the strategy has no such message, or its content does not fit.
        """
        introduction: Handler = ClientInfoRequest, lambda _: self.client_info()
        handlers = {"query.client_info": introduction, **self.handlers()}
        if kind not in handlers:
            raise UserError(f"`strategy` = {self.config.run.strategy} has no message {kind}")
        request, act = handlers[kind]
        return encode(act(decode(request, content, self.wire_dtype)), self.wire_dtype)

    def client_info(self) -> ClientInfo:
        """Who this client is, where it cuts, and the shape of its images."""
        return ClientInfo(self.client, self.cut, self.config.diffusion.timesteps, len(self.data.train), *self._shape())

    def _shape(self) -> tuple[int, int, int, int]:
        """Channels and side of the images, classes, and attributes that networks are conditioned on."""
        images = self.data.train
        _, channels, size, _ = images.images.shape
        return channels, size, images.num_classes, num_attributes(self.config.data.conditioning, images)

    def _secret(self) -> bytes:
        return self.store.secret(self.config.run.seed if self.seeded_secret else None, self.client)

    def _seed(self, purpose: str) -> int:
        return derive_seed(self.config.run.seed, purpose, self.client)

    def _distance(self, samples: Tensor) -> float:
        """Kernel distance of pixels between samples and held-out images; 0 if either is a single image."""
        held_out = normalize(self.data.held_out.images)
        if min(len(held_out), len(samples)) < 2:
            return 0.0
        return kernel_distance(held_out, samples, PixelFeatures(), seed=self._seed("kernel")).mean
