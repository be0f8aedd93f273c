"""The replies to one request, within bounds of the memory that they take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
from flwr.app import Error, Message

from collafuse_flwr.config.run import FederationConfig
from collafuse_flwr.wire.codec import count_bytes

#: Of an error that stands in the place of a reply that was too large; Flower's own codes are below.
TOO_LARGE = 1001
#: The part of the machine's memory that replies may take where no setting says how much.
SHARE = 0.5
#: Characters that are held of why a client failed; a traceback's last lines are a few hundred.
MOST_REASON = 10_000


@dataclass(frozen=True)
class ReplyBounds:
    """The most MB of one reply, and of all replies to one request together."""

    each: float = math.inf
    together: float = math.inf

    @classmethod
    def of(cls, config: FederationConfig) -> ReplyBounds:
        """Those of the settings; of all together, the default is half of the machine's memory."""
        return cls(config.max_reply_mb, config.max_replies_mb or SHARE * psutil.virtual_memory().total / 1e6)


class HeldReplies:
    """Replies as they come in; of one that is too large only an error is held.

    Where all together are, the largest goes: so a client that sends little loses nothing to one that sends much.
    """

    def __init__(self, bounds: ReplyBounds, originals: Sequence[str]) -> None:
        """`originals` are the messages in order: of replies of equal size that to the last one goes first."""
        self.bounds, self.replies = bounds, dict[str, Message]()
        self._order = {original: number for number, original in enumerate(originals)}
        self._megabytes: dict[str, float] = {}

    def add(self, reply: Message) -> None:
        """Hold a reply, or an error in its place or in that of a larger one."""
        original = reply.metadata.reply_to_message_id
        self.replies[original] = reply
        reason = str(reply.error.reason) if reply.has_error() else ""
        if len(reason) > MOST_REASON:
            self._refuse(original, f"{reason[:MOST_REASON]}...", reply.error.code)
            return
        size = count_bytes(reply.content) / 1e6 if reply.has_content() else 0.0
        if size > self.bounds.each:
            self._refuse(original, f"{size:.3g} MB are more than `federation.max_reply_mb` = {self.bounds.each:g}")
            return
        self._megabytes[original] = size
        while sum(self._megabytes.values()) > self.bounds.together:
            largest = max(self._megabytes, key=lambda held: (self._megabytes[held], self._order[held]))
            size = self._megabytes.pop(largest)
            self._refuse(
                largest,
                f"{size:.3g} MB, the most of all replies, which together are more than "
                f"`federation.max_replies_mb` = {self.bounds.together:.6g}",
            )

    def _refuse(self, original: str, reason: str, code: int = TOO_LARGE) -> None:
        reply = self.replies[original]
        error = Message(Error(code, reason), reply_to=reply)
        error.metadata.__dict__.update(reply.metadata.__dict__)
        self.replies[original] = error


def is_too_large(reply: Message | None) -> bool:
    """Whether an error stands in the place of a reply that was too large."""
    return reply is not None and reply.has_error() and reply.error.code == TOO_LARGE
