"""SuperNodes without processes of their own: many of them in this one speak Flower's Fleet API to a real SuperLink."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Self, TypeVar

import httpx
from flwr.app import Context, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.config import get_fused_config_from_fab
from flwr.common.constant import HEARTBEAT_BASE_MULTIPLIER, HEARTBEAT_DEFAULT_INTERVAL
from flwr.common.serde import message_to_proto, run_from_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from google.protobuf.message import Message as Protobuf

R = TypeVar("R", bound=Protobuf)


@dataclass
class Traffic:
    """Requests, bytes and seconds, by the last part of the path of a request."""

    requests: dict[str, float]
    sent: dict[str, float]
    received: dict[str, float]
    seconds: dict[str, float]

    @classmethod
    def none(cls) -> Traffic:
        """Before the first request."""
        return cls(*(defaultdict(float) for _ in range(4)))

    def add(self, other: Traffic) -> None:
        """Add what went through another connection."""
        for name, counts in vars(other).items():
            for request, value in counts.items():
                getattr(self, name)[request] += value


class CountingClient(FleetHttpClient):
    """Flower's own client of the Fleet API, which counts what goes through it."""

    traffic: Traffic

    def _unary_unary(
        self, *, path: str, rpc_method: str, request: Protobuf, response_type: type[R], timeout: float | None = None
    ) -> R:
        began, name, own = time.perf_counter(), path.rpartition("/")[2], self.traffic
        response = super()._unary_unary(
            path=path, rpc_method=rpc_method, request=request, response_type=response_type, timeout=timeout
        )
        own.requests[name] += 1
        own.sent[name] += request.ByteSize()
        own.received[name] += response.ByteSize()
        own.seconds[name] += time.perf_counter() - began
        return response


class Signer:
    """Signs requests as the node whose turn it is."""

    own: NodeAuthHttpInterceptor

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """As Flower's own signer, of one node, does it."""
        return self.own.intercept(context, call_next)


@dataclass
class FleetNode:
    """One SuperNode: who it is for the SuperLink, which client it is, and its context once a run has come."""

    node: Node
    signer: NodeAuthHttpInterceptor
    partition: int
    context: Context | None = None


def connect(address: str) -> tuple[CountingClient, Signer]:
    """A connection for nodes that take turns, and who signs."""
    signer, version = Signer(), RuntimeVersionHttpInterceptor(component_name="SuperNode")
    client = CountingClient.from_server_address(address, True, None, [version, signer])
    client.traffic = Traffic.none()
    return client, signer


class Worker:
    """SuperNodes that share a connection for messages and one for heartbeats; one message at a time is answered."""

    def __init__(self, address: str, app: ClientApp, partitions: range, total: int, answering: threading.Lock) -> None:
        (self.client, self.signer), (self.heart, self.heart_signer) = connect(address), connect(address)
        self.app, self.partitions, self.total, self.answering = app, partitions, total, answering
        self.nodes: list[FleetNode] = []
        #: When messages of each kind were answered, and what the ClientApp took of a processor for them, in seconds.
        self.answered: dict[str, list[float]] = {}
        self.client_seconds = 0.0

    def register(self) -> None:
        """Register and activate the nodes, as a SuperNode does that has no key of its own."""
        for partition in self.partitions:
            private, public = generate_key_pairs()
            key, self.signer.own = public_key_to_bytes(public), NodeAuthHttpInterceptor(private, public)
            self.client.RegisterNode(RegisterNodeFleetRequest(public_key=key))
            request = ActivateNodeRequest(public_key=key, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
            node = Node(node_id=self.client.ActivateNode(request).node_id)
            self.nodes.append(FleetNode(node, self.signer.own, partition))

    def serve(self, over: Callable[[], bool], poll: float) -> None:
        """Look for messages of every node again and again, `poll` seconds apart if the SuperLink is as fast."""
        while not over():
            began = time.monotonic()
            for node in self.nodes:
                self.signer.own = node.signer
                self._look(node)
                if over():
                    return
            while time.monotonic() < began + poll and not over():
                time.sleep(0.05)

    def beat(self, over: Callable[[], bool]) -> None:
        """Send the heartbeat of every node, as often as a SuperNode does."""
        interval = HEARTBEAT_DEFAULT_INTERVAL
        while not over():
            began = time.monotonic()
            for own in list(self.nodes):
                self.heart_signer.own = own.signer
                self.heart.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=own.node, heartbeat_interval=interval))
            while time.monotonic() < began + HEARTBEAT_BASE_MULTIPLIER * interval and not over():
                time.sleep(0.05)

    def _look(self, own: FleetNode) -> None:
        """Pull a message if there is one, answer it, and push the reply."""
        pulled = self.client.PullMessages(PullMessagesRequest(node=own.node))
        if not pulled.messages_list:
            return
        run, tree = pulled.messages_list[0].metadata.run_id, pulled.message_object_trees[0]
        message = self._inflate(own.node, run, tree)
        if own.context is None:
            own.context = self._context(own, run)
        with self.answering:
            began = time.thread_time()
            reply = self.app(message, own.context)
            self.client_seconds += time.thread_time() - began
        self._push(own.node, run, reply)
        self.answered.setdefault(message.metadata.message_type, []).append(time.monotonic())

    def _inflate(self, node: Node, run: int, tree: ObjectTree) -> Message:
        message = pull_and_inflate_object_from_tree(
            tree,
            make_pull_object_fn_protobuf(self.client.PullObject, node, run),
            make_confirm_message_received_fn_protobuf(self.client.ConfirmMessageReceived, node, run),
            return_type=Message,
        )
        # Its own id is not in what it is made of.
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def _context(self, own: FleetNode, run: int) -> Context:
        """What a client has of a run: the settings of the app, which every node fetches, and its number."""
        described = run_from_proto(self.client.GetRun(GetRunRequest(node=own.node, run_id=run)).run)
        request = GetFabRequest(node=own.node, hash_str=described.fab_hash, run_id=run)
        settings = get_fused_config_from_fab(self.client.GetFab(request).fab.content, described)
        who = {"partition-id": own.partition, "num-partitions": self.total}
        return Context(run, own.node.node_id, dict(who), RecordDict(), settings)

    def _push(self, node: Node, run: int, reply: Message) -> None:
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            tree, objects = get_object_tree(reply), get_all_nested_objects(reply)
            pushed = self.client.PushMessages(
                PushMessagesRequest(
                    node=node,
                    messages_list=[message_to_proto(remove_content_from_message(reply))],
                    message_object_trees=[tree],
                    clientapp_runtime_list=[0.0],
                )
            )
            push = make_push_object_fn_protobuf(self.client.PushObject, node, run, pushed.session_id)
            for name in pushed.objects_to_push:
                push(name, objects[name].deflate())


class Fleet:
    """`count` SuperNodes at an address, shared out among as many connections as there are workers."""

    def __init__(self, address: str, app: ClientApp, count: int, workers: int) -> None:
        answering, shares = threading.Lock(), [range(first, count, workers) for first in range(min(workers, count))]
        self.workers = [Worker(address, app, share, count, answering) for share in shares]
        self.pool, self.stopped = ThreadPoolExecutor(2 * len(shares)), threading.Event()
        self.beats: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Whatever ends one thread, or this one, ends all.
        self.stopped.set()
        self.pool.shutdown()
        for worker in self.workers:
            worker.client.close()
            worker.heart.close()

    def register(self) -> None:
        """Have all nodes known to the SuperLink, and online from now on."""
        list(self.pool.map(Worker.register, self.workers))
        self.beats = [self.pool.submit(worker.beat, self.stopped.is_set) for worker in self.workers]

    def serve(self, over: Callable[[], bool], poll: float) -> None:
        """Answer messages until it is over; `poll` seconds between a node's looks for one.

        Raises:
            Exception: what stopped one of the workers.
        """
        ended = partial(self._is_over, over)
        turns = [self.pool.submit(own.serve, ended, poll) for own in self.workers]
        for turn in wait(turns, return_when=FIRST_EXCEPTION).done:
            turn.result()

    def _is_over(self, over: Callable[[], bool]) -> bool:
        return self.stopped.is_set() or any(beat.done() for beat in self.beats) or over()

    def answered(self, kind: str) -> list[float]:
        """When the messages of a kind were answered, in order."""
        return sorted(moment for worker in self.workers for moment in worker.answered.get(kind, []))

    def traffic(self) -> Traffic:
        """What went through all connections."""
        total = Traffic.none()
        for worker in self.workers:
            total.add(worker.client.traffic)
            total.add(worker.heart.traffic)
        return total
