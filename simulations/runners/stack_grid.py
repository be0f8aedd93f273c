"""Stacks in Ray: a Grid that sends clients who are to train together as one message, which `stack_app` answers.

Flower gives each message to a worker of its own, and has no message to several nodes. So the requests of a stack travel
in one to the first of its clients, and so do the replies. What a message costs is then paid once for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock
from uuid import uuid4

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.server.superlink.fleet.vce import vce_api
from flwr.serverapp import Grid

from simulations.runners.serialised import from_bytes, to_bytes
from simulations.runners.stack_app import STACK, STACK_TYPE
from strategies.grids import GridWrapper
from strategies.retry_grid import POLL_SECONDS, fresh_copy


@contextmanager
def partitions_by_node() -> Iterator[Mapping[int, int]]:
    """The partition of each node of a simulation that is started meanwhile, once it has any: Flower tells nobody."""
    nodes: dict[int, int] = {}
    register: Any = vce_api._register_nodes

    def noted(*arguments: Any, **more: Any) -> dict[int, int]:
        nodes.update(register(*arguments, **more))
        return dict(nodes)

    with mock.patch.object(vce_api, "_register_nodes", noted):
        yield nodes


class StackGrid(GridWrapper):
    """Another grid, whose messages to train are sent in stacks.

    If the worker of a stack dies, its messages are sent again one by one, so that what killed it costs itself alone.
    """

    def __init__(self, grid: Grid, stack_size: Callable[[], int], partitions: Mapping[int, int]) -> None:
        """Wrap a grid; `partitions` has that of each node."""
        super().__init__(grid)
        self._stack_size, self._partitions = stack_size, partitions
        #: What each message travels in, by ids, and what travels in that.
        self._carrier: dict[str, str] = {}
        self._carried: dict[str, dict[str, Message]] = {}
        self._replies: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Push messages, those to train in stacks as they come."""
        pushed = list(messages)
        train = [message for message in pushed if message.metadata.message_type == "train"]
        size = self._stack_size() if train else 1
        if size == 1:
            return list(self.below.push_messages(pushed))
        ids = list(self.below.push_messages([own for own in pushed if own.metadata.message_type != "train"]))
        for first in range(0, len(train), size):
            ids += self._push_stack(train[first : first + size])
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that have arrived."""
        wanted = set(message_ids)
        for reply in self.below.pull_messages({self._carrier.get(own, own) for own in wanted - self._replies.keys()}):
            self._replies.update((own.metadata.reply_to_message_id, own) for own in self._opened(reply))
        return [self._replies.pop(own) for own in list(self._replies) if own in wanted]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push messages and wait for their replies, at most `timeout` seconds."""
        pending, replies = set(self.push_messages(messages)), list[Message]()
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while pending and time.monotonic() < deadline:
            replies += self.pull_messages(pending)
            pending -= {reply.metadata.reply_to_message_id for reply in replies}
            time.sleep(POLL_SECONDS if pending else 0)
        return replies

    def _push_stack(self, messages: Sequence[Message]) -> Iterable[str]:
        """Send messages as one, and give the ids that they have in it."""
        stack = {str(uuid4()): message for message in messages}
        for message_id, message in stack.items():
            # As Flower's grids do, which is how a sender knows its messages by their ids.
            message.metadata.__dict__["_message_id"] = message_id
        content: Any = {
            "messages": [to_bytes(message, message_id) for message_id, message in stack.items()],
            "partitions": [self._partitions[message.metadata.dst_node_id] for message in messages],
        }
        record, meta = RecordDict({STACK: ConfigRecord(content)}), messages[0].metadata
        self._send(Message(record, meta.dst_node_id, STACK_TYPE, ttl=meta.ttl, group_id=meta.group_id), stack)
        return stack

    def _send(self, carrier: Message, carried: dict[str, Message]) -> None:
        (sent,) = self.below.push_messages([carrier])
        self._carried[sent] = carried
        self._carrier.update(dict.fromkeys(carried, sent))

    def _opened(self, reply: Message) -> Iterator[Message]:
        """The replies that a reply is, or holds; none yet of a stack whose worker died."""
        stack = self._carried.pop(reply.metadata.reply_to_message_id, {})
        for message_id in stack:
            del self._carrier[message_id]
        if not stack:
            yield reply
        elif reply.has_content() and STACK in reply.content:
            record: Any = reply.content[STACK]
            yield from map(from_bytes, record["messages"])
        elif len(stack) > 1:
            for message_id, message in stack.items():
                self._send(fresh_copy(message), {message_id: message})
        else:
            reply.metadata.__dict__["_reply_to_message_id"], *_ = stack
            yield reply
