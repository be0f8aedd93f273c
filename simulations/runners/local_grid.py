"""An in-process Grid: the ClientApp is called where a real one would be sent a message."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import context_from_proto, context_to_proto, recorddict_to_proto
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.supercore.run import Run

from simulations.runners.client_stack import ClientStack
from simulations.runners.serialised import error_reply, from_bytes, to_bytes
from strategies.grids import MessageGrid


class LocalGrid(MessageGrid):
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
        stack_size: Callable[[], int] = lambda: 1,
    ) -> None:
        """Connect a node for each of `partitions` (None: for all of them); `stack_size` of them train at once."""
        self._stack_size = stack_size
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
        messages = [from_bytes(to_bytes(self._waiting.pop(message_id), message_id)) for message_id in group]
        return ClientStack(self._handle).answer(messages) if len(messages) > 1 else [self._handle(m) for m in messages]

    def _group(self, waiting: Sequence[str]) -> Sequence[str]:
        """The first of some messages and, if it asks to train, further ones that do, to other nodes."""
        if not waiting or self._waiting[waiting[0]].metadata.message_type != "train" or self._stack_size() == 1:
            return waiting[:1]
        nodes: dict[int, str] = {}
        for message_id in waiting:
            metadata = self._waiting[message_id].metadata
            if metadata.message_type == "train":
                nodes.setdefault(metadata.dst_node_id, message_id)
        return list(nodes.values())[: self._stack_size()]

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
            left = Message(Error(ErrorCode.NODE_UNAVAILABLE, "the node has left"), reply_to=message)
            error = from_bytes(to_bytes(left))
            # It is the SuperLink that says so.
            error.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
            return error
        context = context_from_proto(self._contexts[node])
        try:
            reply = from_bytes(to_bytes(self._app(message, context)))
            # Only this: of the settings a client has a copy.
            self._contexts[node].state.CopyFrom(recorddict_to_proto(context.state))
        except (Exception, SystemExit) as raised:
            return from_bytes(to_bytes(error_reply(message, raised)))
        return reply
