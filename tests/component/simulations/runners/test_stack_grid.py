"""Stacks that travel as one message: what comes of them, and what is lost with a worker."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.server.superlink.fleet.vce import vce_api

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.config.config import Config
from simulations.runners.app_loading import begin_run
from simulations.runners.local_grid import LocalGrid
from simulations.runners.stack_app import STACK_TYPE, StackedApp
from simulations.runners.stack_grid import StackGrid, partitions_by_node
from strategies.retry_grid import RetryGrid
from tests.small_runs import bytes_of, metrics, run_strategy, small


class Workers(LocalGrid):
    """Nodes whose messages workers answer, one of which dies of whatever holds a message to partition `deadly`."""

    def __init__(self, app: Any, settings: Any = None, clients: int = 3, deadly: int | None = None) -> None:
        super().__init__(StackedApp(app), begin_run(), settings or {}, 0)  # type: ignore[arg-type] # it is only called
        self.partitions = {self.add_node(partition): partition for partition in range(clients)}
        self.deadly, self.types = deadly, list[str]()

    def add_node(self, partition: int) -> int:
        self._num_partitions = partition + 1
        return super().add_node(partition)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        waiting = {own: self._waiting[own] for own in message_ids if own in self._waiting}
        replies = super().pull_messages(message_ids)
        return [self._unless_dead(reply, waiting[reply.metadata.reply_to_message_id]) for reply in replies]

    def _unless_dead(self, reply: Message, request: Message) -> Message:
        self.types.append(request.metadata.message_type)
        held = [self.partitions[request.metadata.dst_node_id]]
        if request.metadata.message_type == STACK_TYPE:
            held = list(request.content["stack"]["partitions"])  # type: ignore[arg-type]
        if self.deadly not in held:
            return reply
        died = Error(ErrorCode.UNKNOWN, f"ray.exceptions.ActorDiedError: actor_id: {len(self.types)}")
        error = Message(died, reply_to=reply)
        error.metadata.__dict__.update(reply.metadata.__dict__)
        return error


def stacked(below: Workers, clients: int = 2) -> StackGrid:
    return StackGrid(below, lambda: clients, below.partitions)


def counting() -> tuple[ClientApp, list[Any]]:
    """An app, and the partition and kind of message of each of its calls."""
    app, calls = ClientApp(), list[Any]()

    def answer(message: Message, context: Context) -> Message:
        calls.append((context.node_config["partition-id"], message.metadata.message_type))
        if context.node_config["partition-id"] == 1 and message.metadata.group_id == "fail":
            raise ValueError("no images")
        return Message(RecordDict(), reply_to=message)

    app.train()(answer)
    app.query()(answer)
    return app, calls


def requests(below: Workers, kind: str = "train", group: str = "") -> list[Message]:
    return [Message(RecordDict(), node, kind, group_id=group) for node in below.partitions]


def settings_of(folder: Path) -> Config:
    return small(folder, runner="ray", model="nano", cut__client_ratios=[0.3, 0.5, 0.6])


def test_a_run_whose_stacks_travel_is_the_run_whose_stacks_do_not(tmp_path: Path) -> None:
    one, other = settings_of(tmp_path / "one"), settings_of(tmp_path / "other")
    below = Workers(client_app, one.to_flower())
    below._num_partitions = 3
    run_strategy(one, stacked(below))
    run_strategy(other, LocalGrid(client_app, begin_run(), other.to_flower(), 3, stack_size=lambda: 2))
    assert STACK_TYPE in below.types
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "other")
    assert metrics(tmp_path / "one") == metrics(tmp_path / "other")


def test_each_client_is_called_as_itself_and_answers_its_own_message() -> None:
    app, calls = counting()
    below = Workers(app, clients=5)
    messages = requests(below)
    replies = stacked(below).send_and_receive(messages)
    assert calls == [(partition, "train") for partition in range(5)]
    assert below.types == [STACK_TYPE, STACK_TYPE, STACK_TYPE]
    answered = {reply.metadata.reply_to_message_id: reply.metadata.src_node_id for reply in replies}
    assert answered == {message.metadata.message_id: message.metadata.dst_node_id for message in messages}


def test_what_does_not_train_travels_alone() -> None:
    app, calls = counting()
    below = Workers(app)
    assert len(stacked(below).send_and_receive(requests(below, "query"))) == 3
    assert below.types == ["query"] * 3
    assert [kind for _, kind in calls] == ["query"] * 3


def test_replies_wait_until_they_are_wanted() -> None:
    app, _ = counting()
    below = Workers(app)
    grid = stacked(below, 3)
    first, *rest = grid.push_messages(requests(below))
    (reply,) = grid.pull_messages([first])
    assert reply.metadata.reply_to_message_id == first
    assert len(grid.pull_messages(rest)) == 2
    assert grid.pull_messages([first, *rest]) == []


def test_a_client_that_fails_costs_itself_alone() -> None:
    app, _ = counting()
    below = Workers(app)
    replies = stacked(below, 3).send_and_receive(requests(below, group="fail"))
    failed = [below.partitions[reply.metadata.src_node_id] for reply in replies if reply.has_error()]
    assert [failed, len(replies)] == [[1], 3]


def test_a_client_that_kills_its_worker_costs_itself_alone() -> None:
    app, _ = counting()
    below = Workers(app, clients=4, deadly=2)
    messages = requests(below)
    replies = RetryGrid(stacked(below, 3), pause=0.0).send_and_receive(messages)
    lost = [below.partitions[reply.metadata.src_node_id] for reply in replies if reply.has_error()]
    assert [lost, len(replies)] == [[2], 4]
    assert {reply.metadata.reply_to_message_id for reply in replies} == {own.metadata.message_id for own in messages}


def test_replies_are_not_waited_for_longer_than_the_timeout() -> None:
    app, calls = counting()
    below = Workers(app)
    assert stacked(below).send_and_receive(requests(below), timeout=0.0) == []
    assert calls == []


def test_the_partitions_of_a_simulation_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vce_api, "_register_nodes", lambda num_nodes: dict(enumerate(range(num_nodes), 7)))
    with partitions_by_node() as partitions:
        assert vce_api._register_nodes(num_nodes=2) == {7: 0, 8: 1}  # type: ignore[call-arg]
    assert partitions == {7: 0, 8: 1}
