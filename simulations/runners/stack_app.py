"""What answers a client's messages in a worker of Ray, those that hold several among them.

It imports nothing that only the server needs: every worker would spend a second and a half on that.
"""

from __future__ import annotations

from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import PARTITION_ID_KEY

from simulations.runners.client_stack import ClientStack
from simulations.runners.serialised import error_reply, from_bytes, to_bytes

#: The type of a message that holds those of a stack, and the record that it holds them in.
STACK_TYPE, STACK = "train.stack", "stack"


class StackedApp:
    """Stands in for a ClientApp in a worker; it answers the messages of a stack as well.

    What a client keeps in its context does not outlast a stack.
    """

    def __init__(self, app: ClientApp) -> None:
        self._app = app

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message, or all those in it."""
        if message.metadata.message_type != STACK_TYPE:
            return self._app(message, context)
        stack: Any = message.content[STACK]
        requests = [from_bytes(content) for content in stack["messages"]]
        partitions = {own.metadata.dst_node_id: p for own, p in zip(requests, stack["partitions"], strict=True)}

        def handle(request: Message) -> Message:
            node = request.metadata.dst_node_id
            config = {**context.node_config, PARTITION_ID_KEY: partitions[node]}
            try:
                return self._app(request, Context(context.run_id, node, config, RecordDict(), context.run_config))
            except (Exception, SystemExit) as raised:
                return error_reply(request, raised)

        replies = [to_bytes(reply) for reply in ClientStack(handle).answer(requests)]
        return Message(RecordDict({STACK: ConfigRecord({"messages": replies})}), reply_to=message)
