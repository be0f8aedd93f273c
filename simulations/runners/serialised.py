"""Messages as bytes, as they cross a network, and an error as the reply to one."""

from __future__ import annotations

from uuid import uuid4

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto

from simulations.runners.result import describe


def to_bytes(message: Message, message_id: str = "") -> bytes:
    """A message, with an id of its own or the one given."""
    proto = message_to_proto(message)
    proto.metadata.message_id = message_id or str(uuid4())
    content: bytes = proto.SerializeToString()
    return content


def from_bytes(content: bytes) -> Message:
    """The message that `to_bytes` was given, with no memory in common."""
    return message_from_proto(MessageProto.FromString(content))


def error_reply(message: Message, raised: BaseException) -> Message:
    """The reply to a message whose ClientApp raised an error."""
    crashed = isinstance(raised, SystemExit)
    code = ErrorCode.CLIENT_APP_CRASHED if crashed else ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    return Message(Error(code, describe(raised)), reply_to=message)
