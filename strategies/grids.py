"""What grids of our own have in common."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run


class MessageGrid(Grid):
    """A grid whose messages anybody can create."""

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message, as `Message(...)` does, which Flower wants in its place."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)


class GridWrapper(MessageGrid):
    """A grid over another one, `below`, whose run and nodes it has."""

    def __init__(self, below: Grid) -> None:
        """Wrap a grid."""
        self.below = below

    @property
    def run(self) -> Run:
        """The run of the grid below."""
        return self.below.run

    def set_run(self, run: Run) -> None:
        """Set the run of the grid below."""
        self.below.set_run(run)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes of the grid below."""
        return self.below.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """What the grid below knows about its nodes."""
        return self.below.get_nodes()
