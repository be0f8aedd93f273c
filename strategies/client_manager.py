"""Who takes part: introductions, late joiners and the choice of clients for a round."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from flwr.app import Message
from flwr.serverapp import Grid

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import RunFailed, UploadError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.text import last_line, number_of
from collafuse_flwr.wire.codec import client_error, decode, encode
from collafuse_flwr.wire.common import ClientInfo, ClientInfoRequest

#: Seconds between looks for clients that have not connected yet.
POLL_SECONDS = 0.2
#: Seconds after which it is said that clients are waited for; each further time it is said after twice as many.
SILENCE = 10.0
#: Channels and side of images, classes, and attributes.
Shape = tuple[int, int, int, int]
#: The most that an introduction may say: what it says decides how long rounds are, and how much memory they take.
LIMITS = {"num_images": 10**8, "channels": 64, "size": 8192, "num_classes": 10**5, "num_attributes": 10**4}
#: Share of all images above which the operator hears of one client: three times what all others have together.
DOMINANT = 0.75


@dataclass
class ClientManager:
    """The clients that have introduced themselves, by partition id."""

    config: Config
    client_infos: dict[int, ClientInfo] = field(default_factory=dict)
    nodes: dict[int, int] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    #: What `new_notices` has said.
    noticed: set[str] = field(default_factory=set)
    #: Of the images, once the run has begun.
    shape: Shape | None = None

    def wait(self, grid: Grid, clients: Collection[int] = (), say: Callable[[str], None] = lambda _: None) -> None:
        """Wait until enough clients are there, or all of some `clients`; `say` shows that others are waited for.

        Raises:
            RunFailed: they do not come in time, or all who came were refused.
        """
        wanted = len(clients) or self.config.federation.min_available_nodes or self.config.run.num_supernodes
        # Of some clients nobody can say that they were refused before all that there are have been heard.
        enough = len(self.client_infos) if clients else wanted
        began, silence = time.monotonic(), SILENCE
        deadline = began + self.config.federation.round_timeout
        while self._count(clients) < wanted:
            self.register_new(grid)
            if self.refused and len(self.nodes) + len(self.refused) >= enough:
                break
            if time.monotonic() > deadline:
                came = self._count(clients)
                raise RunFailed(f"only {came} of {wanted} clients came within `federation.round_timeout`")
            if self._count(clients) < wanted:
                if time.monotonic() > began + silence:
                    say(self._waiting(self._count(clients), wanted))
                    silence *= 2
                time.sleep(POLL_SECONDS)
        if not self.nodes:
            raise RunFailed(next(iter(self.refused.values())))
        self.shape = self._common_shape()

    def _waiting(self, came: int, wanted: int) -> str:
        """That clients are missing, how long they are waited for, and why they may never come."""
        at_most = f"at most {self.config.federation.round_timeout:g} s (`federation.round_timeout`)"
        hint = f'a simulation by `flwr run` has as many as --federation-config "num-supernodes={wanted}" says, or 2'
        return f"{came} of {number_of(wanted, 'client')} have come; waiting for the others, {at_most}; {hint}"

    def _count(self, clients: Collection[int]) -> int:
        """How many are there, of some clients or of all."""
        return len(self.nodes.keys() & set(clients)) if clients else len(self.nodes)

    def register_new(self, grid: Grid) -> None:
        """Ask nodes that have not introduced themselves who they are; others may have joined or come back since."""
        present = set(grid.get_node_ids())
        self.nodes = {client: node for client, node in self.nodes.items() if node in present}
        new = sorted(present - set(self.nodes.values()))
        if not new:
            return
        messages = [Message(encode(ClientInfoRequest()), node, "query.client_info") for node in new]
        replies = grid.send_and_receive(messages, timeout=self.config.federation.round_timeout)
        # In order of partitions: node ids are random.
        for reply in sorted(replies, key=_partition):
            self._introduce(reply)
        self._agree()

    def sample(self, round_: int) -> list[int]:
        """The clients of a round, in order: all who are there, or a share of them drawn by seed and round."""
        present = sorted(self.nodes)
        fraction = self.config.federation.fraction_train
        count = max(1, round(fraction * len(present)))
        order = torch.randperm(len(present), generator=named_generator(self.config.run.seed, "choose", round_))
        return sorted(present[i] for i in order[:count].tolist())

    def new_notices(self) -> list[str]:
        """Why some cannot take part, and who counts for nearly everybody, each once."""
        lines = [f"a client cannot take part: {reason}" for reason in dict.fromkeys(self.refused.values())]
        new = [line for line in lines + self._dominant() if line not in self.noticed]
        self.noticed.update(new)
        return new

    def _dominant(self) -> list[str]:
        """A client whose word makes it most of every average or pool; nothing verifies how many images it has."""
        sizes = {client: own.num_images for client, own in self.client_infos.items()}
        if len(sizes) < 2 or not self.config.spec.sends or self.config.federation.max_client_weight < 1:
            return []
        client = max(sizes, key=lambda c: sizes[c])
        if sizes[client] <= DOMINANT * sum(sizes.values()):
            return []
        # Without the share itself, which changes with whoever joins: it is said once.
        return [
            f"client {client} says that it has more than {DOMINANT:.0%} of all images, and counts for as much; "
            "`federation.max_client_weight` = 0.5 would let no client count for more than all others"
        ]

    def client_of(self, node: int) -> int | None:
        """The partition id of a node."""
        return next((client for client, own in self.nodes.items() if own == node), None)

    def restore(self, client_infos: Iterable[ClientInfo]) -> None:
        """Take up what was agreed before a run was interrupted."""
        self.client_infos = {client_info.partition_id: client_info for client_info in client_infos}
        self.shape = self._common_shape() if self.client_infos else None

    def _introduce(self, reply: Message) -> None:
        node = reply.metadata.src_node_id
        if reply.has_error():
            self.refused[node] = f"a client failed to introduce itself: {last_line(reply.error.reason)}"
            return
        refusal = client_error(reply.content)
        if refusal is not None:
            self.refused[node] = last_line(refusal.reason)
            return
        try:
            client_info = self._as_moved(decode(ClientInfo, reply.content))
            self._check(client_info)
        except UploadError as error:
            self.refused[node] = last_line(str(error))
            return
        self.refused.pop(node, None)
        self.client_infos[client_info.partition_id] = client_info
        self.nodes[client_info.partition_id] = node

    def _as_moved(self, client_info: ClientInfo) -> ClientInfo:
        """An introduction with the cut that the client has moved to since it first introduced itself."""
        before = self.client_infos.get(client_info.partition_id) if self.config.recuts() else None
        return client_info if before is None else replace(client_info, cut_step=before.cut_step)

    def _check(self, client_info: ClientInfo) -> None:
        """Hold an introduction against what the others, and this client before, have said."""
        client = client_info.partition_id
        if not 0 <= client < self.config.run.num_supernodes:
            raise UploadError(f"client {client} is not in 0..{self.config.run.num_supernodes - 1}")
        if client in self.nodes:
            raise UploadError(f"two nodes say that they are client {client}")
        introduced = self.client_infos.get(client)
        if introduced is not None and introduced != client_info:
            raise UploadError(f"client {client} said {introduced} at first and now says {client_info}")
        steps, agreed = self.config.diffusion.timesteps, self.config.cuts_of(client)
        if client_info.cut_step not in agreed or client_info.timesteps != steps:
            allowed = f"{agreed[0]}..{agreed[-1]}" if len(agreed) > 1 else agreed[0]
            cut = f"{client_info.cut_step} of {client_info.timesteps} steps"
            raise UploadError(f"client {client} cuts at {cut}, not at {allowed} of {steps}")
        attributes_fit = (
            client_info.num_attributes >= 1
            if self.config.data.conditioning == "attributes"
            else client_info.num_attributes == 0
        )
        if (
            client_info.num_images < 1
            or client_info.size < 1
            or client_info.channels < 1
            or client_info.num_classes < 1
            or not attributes_fit
        ):
            raise UploadError(f"client {client} describes no images: {client_info}")
        self._check_size(client_info)

    def _check_size(self, client_info: ClientInfo) -> None:
        """Hold what a client's images would cost against limits; it decides how long rounds are."""
        client, config = client_info.partition_id, self.config
        for name, limit in LIMITS.items():
            if (value := getattr(client_info, name)) > limit:
                raise UploadError(f"client {client} says `{name}` = {value}, which is more than {limit}")
        if config.data.image_size not in (0, client_info.size) and not config.data.codec:
            raise UploadError(
                f"client {client} has {_images(client_info)}, not of `image_size` = {config.data.image_size}"
            )
        if "images" not in config.spec.sends or client_info.cut_step == client_info.timesteps:
            return
        row = client_info.channels * client_info.size**2 * np.dtype(config.upload.dtype).itemsize
        size, most = client_info.num_images * config.upload.draws_per_image * row / 1e6, config.federation.max_reply_mb
        if size > most:
            raise UploadError(
                f"client {client} would upload {size:.3g} MB, more than `federation.max_reply_mb` = {most:g}"
            )

    def _common_shape(self) -> Shape:
        """The shape that most clients have; of as many, that of the client with the least number."""
        infos = [self.client_infos[client] for client in sorted(self.client_infos)]
        counts = Counter(own.shape for own in infos)
        return max((own.shape for own in infos), key=lambda shape: counts[shape])

    def _agree(self) -> None:
        """Send those away whose images are not of the shape that most have, or that the run has begun with."""
        if not self.client_infos:
            return
        shape = self.shape or self._common_shape()
        like = next(own for _, own in sorted(self.client_infos.items()) if own.shape == shape)
        for client, own in list(self.client_infos.items()):
            if own.shape != shape:
                both = f"client {client} has {_images(own)}, client {like.partition_id} has {_images(like)}"
                del self.client_infos[client]
                if (node := self.nodes.pop(client, None)) is not None:
                    self.refused[node] = f"{both}; all must agree"


def _partition(reply: Message) -> float:
    """Where a reply to `query.client_info` comes in order; those without a readable partition come last."""
    record = None if reply.has_error() else reply.content.metric_records.get("metrics")
    partition = record.get("partition_id") if record is not None else None
    return partition if isinstance(partition, int) else float("inf")


def _images(client_info: ClientInfo) -> str:
    channels, size, num_classes, num_attributes = client_info.shape
    attributes = f" with {num_attributes} attributes" if num_attributes else ""
    return f"images of {channels} x {size} x {size} in {num_classes} classes{attributes}"


def failure(reply: Message | None, timeout: float) -> str:
    """Why a client has not answered, in one line; empty if it has, be it well or badly."""
    if reply is None:
        return f"no reply within {timeout:g} seconds"
    if reply.has_error():
        return last_line(reply.error.reason)
    refusal = client_error(reply.content)
    return "" if refusal is None else last_line(refusal.reason)
