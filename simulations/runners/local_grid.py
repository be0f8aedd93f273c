"""An in-process Grid: the ClientApp is called where a real one would be sent a message."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import NoReturn
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
    recorddict_to_proto,
)
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from simulations.runners.client_stack import ClientStack
from simulations.runners.result import describe


class LocalGrid(Grid):
    """Nodes in this process, each with its own context; everything that crosses is serialised as on a network.

    A message is handled when its reply is requested, one for each `pull_messages`, in the order they were pushed; of
    those to train as many as are in a stack. Node ids are drawn at random, as Flower's are, so that nothing can depend
    on them.
    """

    def __init__(
        self,
        client_app: ClientApp,
        run_id: int,
        run_config: Mapping[str, bool | int | float | str],
        num_partitions: int,
        partitions: Iterable[int] | None = None,
        *,
        stack_clients: int = 1,
    ) -> None:
        """Connect a node for each of `partitions` (None: for all of them); `stack_clients` of them train at once."""
        self._stack_clients = stack_clients
        self._app, self._num_partitions, self._run_config = client_app, num_partitions, dict(run_config)
        self._contexts: dict[int, ContextProto] = {}
        self._waiting: dict[str, Message] = {}
        self._run = Run.create_empty(run_id)
        for partition in range(num_partitions) if partitions is None else partitions:
            self.add_node(partition)

    def add_node(self, partition: int) -> int:
        """Connect a node that holds a partition, and give its id."""
        node = secrets.randbits(62) + 1
        node_config = {"partition-id": partition, "num-partitions": self._num_partitions}
        context = Context(self._run.run_id, node, dict(node_config), RecordDict(), dict(self._run_config))
        self._contexts[node] = context_to_proto(context)
        return node

    def remove_node(self, node: int) -> None:
        """Disconnect a node: messages that wait for it are answered with an error."""
        del self._contexts[node]

    def state_of(self, node: int) -> RecordDict:
        """A copy of what a node keeps in its context."""
        return context_from_proto(self._contexts[node]).state

    @property
    def run(self) -> Run:
        """The run that this grid serves."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Serve another run."""
        self._run = run

    def create_message(self, *_: object, **__: object) -> NoReturn:
        """Refuse what Flower has deprecated."""
        raise NotImplementedError("use `Message(...)`")

    def get_node_ids(self) -> list[int]:
        """The ids of the nodes that are connected."""
        return sorted(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Take messages in; those for unknown nodes are dropped, as Flower's own in-memory grid does."""
        ids = []
        for message in messages:
            if message.metadata.dst_node_id in self._contexts:
                ids.append(str(uuid4()))
                # As Flower's grids do, which is how a sender knows its messages by their ids.
                message.metadata.__dict__["_message_id"] = ids[-1]
                # As it is now, though it keeps the bytes of its arrays in common with others: they cannot change.
                self._waiting[ids[-1]] = deepcopy(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Handle the first message that waits, of those requested, and those stacked with it, and give the replies."""
        wanted = set(message_ids)
        group = self._group([message_id for message_id in self._waiting if message_id in wanted])
        messages = [_through_wire(self._waiting.pop(message_id), message_id) for message_id in group]
        return ClientStack(self._handle).answer(messages) if len(messages) > 1 else [self._handle(m) for m in messages]

    def _group(self, waiting: Sequence[str]) -> Sequence[str]:
        """The first of some messages and, if it asks to train, further ones that do, to other nodes."""
        if self._stack_clients == 1 or not waiting or self._waiting[waiting[0]].metadata.message_type != "train":
            return waiting[:1]
        nodes: dict[int, str] = {}
        for message_id in waiting:
            metadata = self._waiting[message_id].metadata
            if metadata.message_type == "train":
                nodes.setdefault(metadata.dst_node_id, message_id)
        return list(nodes.values())[: self._stack_clients]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push messages and handle them all, or as many as can be begun within `timeout` seconds."""
        pending, replies = set(self.push_messages(messages)), list[Message]()
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while pending and time.monotonic() < deadline:
            for reply in self.pull_messages(pending):
                pending.remove(reply.metadata.reply_to_message_id)
                replies.append(reply)
        return replies

    def _handle(self, message: Message) -> Message:
        """Let the node answer; after an error its context is as before."""
        node = message.metadata.dst_node_id
        if node not in self._contexts:
            error = _error(message, ErrorCode.NODE_UNAVAILABLE, "the node has left")
            # It is the SuperLink that says so.
            error.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
            return error
        context = context_from_proto(self._contexts[node])
        try:
            reply = _through_wire(self._app(message, context), str(uuid4()))
            # Only this: of the settings a client has a copy.
            self._contexts[node].state.CopyFrom(recorddict_to_proto(context.state))
        except Exception as raised:
            return _error(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, describe(raised))
        except SystemExit as raised:
            return _error(message, ErrorCode.CLIENT_APP_CRASHED, describe(raised))
        return reply


def _through_wire(message: Message, message_id: str) -> Message:
    """The message that arrives when this one is sent: equal, with an id, and with no memory in common."""
    proto = message_to_proto(message)
    proto.metadata.message_id = message_id
    return message_from_proto(type(proto).FromString(proto.SerializeToString()))


def _error(message: Message, code: int, reason: str) -> Message:
    return _through_wire(Message(Error(code, reason), reply_to=message), str(uuid4()))
