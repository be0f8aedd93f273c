"""A Grid that sends again what a dead worker took down with it."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from strategies.grids import GridWrapper
from strategies.held_replies import HeldReplies, ReplyBounds

#: Seconds between looks for replies: short, as a batch of the split GAN waits for six of them.
POLL_SECONDS = 0.002
#: ... but so many times as long as a look takes, in which a SuperLink goes through all messages that wait, and at most
#: as long as Flower's own grid waits.
POLL_PAUSES, MOST_SECONDS = 10, 3.0
UNBOUNDED = ReplyBounds()


class RetryGrid(GridWrapper):
    """Another grid, whose messages survive the death of a Ray worker that they had no part in.

    A dead worker goes back to Flower's pool and at once fails whatever it is given next. Those messages were never
    handled, so they are sent again. The one that was being handled when the worker died is not: it may have done half
    its work, and would most likely kill the next worker. Its error goes to the caller, as do all other errors.
    """

    def __init__(
        self,
        grid: Grid,
        bounds: ReplyBounds = UNBOUNDED,
        *,
        tries: int = 8,
        pause: float = 1.0,
        restarting: int = 180,
        on_reply: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        """Wrap a grid; give up after `tries` attempts in a row without one answer, `pause` seconds apart.

        `bounds` are those of what the replies of a `send_and_receive` take in memory.
        `restarting` takes the place of `tries` where a worker is about to come back: on a busy machine that takes it
        more than ten seconds, in which Flower may offer it every message.
        `on_reply` gets how many of the messages of a `send_and_receive` have been answered, and of how many.
        """
        super().__init__(grid)
        self._tries, self._pause, self._on_reply = tries, pause, on_reply
        self._bounds = bounds
        self._restarting = max(tries, restarting)
        self._sent: dict[str, Message] = {}
        self._now: dict[str, str] = {}
        self._victims: dict[str, Message] = {}
        self._dead: set[str] = set()
        self._barren = 0
        #: How long after the last `send_and_receive` began the reply of each node came.
        self.seconds: dict[int, float] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Push messages and remember them; those that the grid below refuses have no id."""
        batch = list(messages)
        ids = {message_id for message_id in self.below.push_messages(batch) if message_id}
        # Flower writes the id into the message, and leaves out the ids of messages to nodes it does not know.
        sent = {m.metadata.message_id: m for m in batch if m.metadata.message_id in ids}
        self._sent.update(sent)
        return list(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that have arrived; what must be sent again is, once nothing else that was requested is under way."""
        return list(self._arriving(set(message_ids)))

    def _arriving(self, pending: set[str]) -> Iterator[Message]:
        waiting = pending & self._victims.keys()
        if pending and waiting == pending:
            yield from self._send_again(pending)
            return
        under_way = {self._now.get(original, original): original for original in pending - waiting}
        for pulled in self._pulls(under_way):
            for reply in sorted(self.below.pull_messages(pulled), key=lambda reply: reply.metadata.created_at):
                original = under_way[reply.metadata.reply_to_message_id]
                # The SuperLink itself replies for a node that is gone.
                node = self._sent[original].metadata.dst_node_id
                reply.metadata.__dict__.update(_reply_to_message_id=original, _src_node_id=node)
                if self._was_spared(reply):
                    self._victims[original] = reply
                else:
                    self._barren = 0
                    yield self._settle(original, reply)

    def _pulls(self, under_way: Iterable[str]) -> list[set[str]]:
        """What to pull at once: all, but one by one what Flower would bring into memory, so that it can be dropped."""
        return [{message_id} for message_id in under_way] if self.is_remote() else [set(under_way)]

    def is_remote(self) -> bool:
        """Whether replies come over a network."""
        # A deployment's grid has imported this module; here that would take seconds.
        http = sys.modules.get("flwr.superlink.grid.http_grid")
        return http is not None and isinstance(self.below, http.HttpGrid)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push messages and wait for their replies, at most `timeout` seconds."""
        self._sent_at, self.seconds = time.monotonic(), {}
        originals = self.push_messages(messages)
        pending, held = set(originals), HeldReplies(self._bounds, originals)
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while pending and time.monotonic() < deadline:
            began = time.monotonic()
            if not self._look(pending, held):
                now = time.monotonic()
                time.sleep(max(POLL_SECONDS, min(POLL_PAUSES * (now - began), MOST_SECONDS, deadline - now)))
        if pending and self.is_remote():
            # Flower waits for minutes where parts of a reply are lost; the others came in time meanwhile.
            self._look(pending, held)
        for original in pending:
            self._forget(original)
        return list(held.replies.values())

    def _look(self, pending: set[str], held: HeldReplies) -> bool:
        """Take what has arrived out of `pending`; whether there was anything."""
        before = len(pending)
        for reply in self._arriving(set(pending)):
            pending.remove(reply.metadata.reply_to_message_id)
            held.add(reply)
            self.seconds[reply.metadata.src_node_id] = time.monotonic() - self._sent_at
            self._on_reply(len(held.replies), len(held.replies) + len(pending))
        return len(pending) < before

    def _send_again(self, originals: set[str]) -> list[Message]:
        """Send messages once more, or give up on them and hand out their errors."""
        coming_back = any(_is_restarting(self._victims[original]) for original in originals)
        if self._barren >= (self._restarting if coming_back else self._tries):
            self._barren = 0
            return [self._settle(original, self._victims[original]) for original in sorted(originals)]
        if self._barren:
            time.sleep(self._pause)
        self._barren += 1
        copies = {original: fresh_copy(self._sent[original]) for original in sorted(originals)}
        self.below.push_messages(list(copies.values()))
        for original, copy in copies.items():
            self._now[original] = copy.metadata.message_id
            del self._victims[original]
        return []

    def _was_spared(self, reply: Message) -> bool:
        """Whether a message failed without being handled, because its worker had died before."""
        if not reply.has_error() or reply.error.code != ErrorCode.UNKNOWN:
            return False
        if _is_restarting(reply):
            return True
        # A worker that is not restarted fails all messages with the same words: the first is the one it died of.
        worker = re.search(r"actor_id: (\w+)", reply.error.reason or "")
        if worker is None:
            return False
        reported = worker[1] in self._dead
        self._dead.add(worker[1])
        return reported

    def _settle(self, original: str, reply: Message) -> Message:
        self._forget(original)
        return reply

    def _forget(self, original: str) -> None:
        self._sent.pop(original, None)
        self._now.pop(original, None)
        self._victims.pop(original, None)


def _is_restarting(reply: Message) -> bool:
    """Whether a message failed because its worker is about to come back."""
    return "The actor is restarting" in (reply.error.reason or "")


def fresh_copy(message: Message) -> Message:
    """A copy that can be sent: Flower refuses a message that it has delivered once."""
    meta = message.metadata
    return Message(message.content, meta.dst_node_id, meta.message_type, ttl=meta.ttl, group_id=meta.group_id)
