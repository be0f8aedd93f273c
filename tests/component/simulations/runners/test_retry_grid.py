from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import psutil
import pytest
from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.superlink.grid import HttpGrid

from collafuse_flwr.config.run import FederationConfig
from simulations.runners.app_loading import begin_run
from simulations.runners.local_grid import LocalGrid
from strategies import retry_grid
from strategies.held_replies import HeldReplies, ReplyBounds, is_too_large
from strategies.retry_grid import RetryGrid

# As Ray 2.55 words it; the message that killed a worker, and those that the dead worker was given afterwards.
DIED = "<class 'ray.exceptions.ActorDiedError'>:<'The actor died unexpectedly.\n\tactor_id: {}\n\tpid: 1'>"
RESTARTING = "<class 'ray.exceptions.ActorUnavailableError'>:<'The actor ab is unavailable: The actor is restarting..'>"
RESTARTED = "<class 'ray.exceptions.ActorUnavailableError'>:<'The actor ab is unavailable: The actor was restarted.'>"

Verdict = Callable[[int, int], str | None]
app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    return Message(RecordDict(), reply_to=message)


class Fragile(LocalGrid):
    """A grid whose workers die as a test tells: the reason for the n-th message to a partition, or None."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(app, begin_run(), {}, 0)
        self.verdict, self.sent = verdict, dict[int, int]()
        self.partition = {self.add_node(partition): partition for partition in range(3)}

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = super().pull_messages(message_ids)
        return [self._perhaps_failed(reply) for reply in replies]

    def _perhaps_failed(self, reply: Message) -> Message:
        partition = self.partition[reply.metadata.src_node_id]
        self.sent[partition] = self.sent.get(partition, 0) + 1
        reason = self.verdict(partition, self.sent[partition])
        if reason is None:
            return reply
        failed = Message(Error(ErrorCode.UNKNOWN, reason), reply_to=reply)
        failed.metadata.__dict__.update(reply.metadata.__dict__)
        return failed


def exchange(below: Fragile, tries: int = 3, restarting: int = 0) -> dict[int, bool]:
    """Ask every partition in order, and tell which answered."""
    grid = RetryGrid(below, tries=tries, pause=0.0, restarting=restarting)
    messages = [Message(RecordDict(), node, "train") for node in below.partition]
    ids = grid.push_messages(messages)
    pending, answers = set(ids), dict[str, bool]()
    while pending:
        for reply in grid.pull_messages(pending):
            pending.remove(reply.metadata.reply_to_message_id)
            answers[reply.metadata.reply_to_message_id] = reply.has_content()
    return {below.partition[m.metadata.dst_node_id]: answers[i] for m, i in zip(messages, ids, strict=True)}


def test_what_a_restarting_worker_was_given_is_sent_again_but_not_what_killed_it() -> None:
    reasons = {(0, 1): RESTARTED, (1, 1): RESTARTING, (1, 2): RESTARTING, (2, 1): RESTARTING}
    below = Fragile(lambda partition, run_job: reasons.get((partition, run_job)))
    assert exchange(below) == {0: False, 1: True, 2: True}
    assert below.sent == {0: 1, 1: 3, 2: 2}


def test_of_those_that_a_dead_worker_failed_only_the_first_stays_failed() -> None:
    reasons = {(0, 1): DIED.format("ab"), (1, 1): DIED.format("ab"), (2, 1): DIED.format("cd")}
    below = Fragile(lambda partition, run_job: reasons.get((partition, run_job)))
    assert exchange(below) == {0: False, 1: True, 2: False}
    assert below.sent == {0: 1, 1: 2, 2: 1}


def test_it_gives_up_when_nobody_answers_any_more() -> None:
    below = Fragile(lambda partition, run_job: RESTARTING)
    assert exchange(below, tries=4) == {0: False, 1: False, 2: False}
    assert below.sent == {0: 5, 1: 5, 2: 5}


def test_it_waits_longer_for_a_worker_that_is_coming_back_than_for_one_that_died() -> None:
    below = Fragile(lambda partition, run_job: RESTARTING if partition == 1 and run_job <= 50 else None)
    assert exchange(below, restarting=60) == {0: True, 1: True, 2: True}
    assert below.sent == {0: 1, 1: 51, 2: 1}
    dead = Fragile(lambda partition, run_job: DIED.format("ab"))
    assert exchange(dead, restarting=60) == {0: False, 1: False, 2: False}
    assert dead.sent == {0: 1, 1: 4, 2: 4}


@pytest.mark.parametrize("reason", ["ValueError: an error that Flower has no code for", ""])
def test_other_errors_are_passed_on(reason: str) -> None:
    below = Fragile(lambda partition, run_job: reason if partition == 1 else None)
    assert exchange(below) == {0: True, 1: False, 2: True}
    assert below.sent == {0: 1, 1: 1, 2: 1}


def test_send_and_receive_waits_for_those_sent_again() -> None:
    below = Fragile(lambda partition, run_job: RESTARTING if run_job == 1 else None)
    progress: list[tuple[int, int]] = []
    grid = RetryGrid(below, pause=0.0, on_reply=lambda done, total: progress.append((done, total)))
    messages = [Message(RecordDict(), node, "train") for node in grid.get_node_ids()]
    replies = grid.send_and_receive(messages, timeout=20.0)
    assert all(reply.has_content() for reply in replies)
    sent = {message.metadata.message_id for message in messages}
    assert {reply.metadata.reply_to_message_id for reply in replies} == sent
    assert progress == [(1, 3), (2, 3), (3, 3)]


def test_it_keeps_how_long_each_reply_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the last exchange, those that were sent again from when they were sent first."""
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: None)
    monkeypatch.setattr(retry_grid, "time", clock)

    def slow(partition: int, run_job: int) -> str | None:
        now[0] += 1.0 + partition
        return RESTARTING if (partition, run_job) == (2, 1) else None

    below = Fragile(slow)
    grid = RetryGrid(below, pause=0.0)
    nodes = {partition: node for node, partition in below.partition.items()}
    grid.send_and_receive([Message(RecordDict(), nodes[2], "train")])
    assert grid.seconds == {nodes[2]: 6.0}
    grid.send_and_receive([Message(RecordDict(), nodes[0], "train")])
    assert grid.seconds == {nodes[0]: 1.0}


def test_an_error_of_the_superlink_is_that_of_the_node_that_the_message_went_to() -> None:
    below = LocalGrid(app, begin_run(), {}, 2)
    here, gone = below.get_node_ids()
    grid = RetryGrid(below)
    pending = set(grid.push_messages([Message(RecordDict(), node, "train") for node in (gone, here)]))
    below.remove_node(gone)
    replies = [reply for _ in pending for reply in grid.pull_messages(pending)]
    assert {reply.metadata.src_node_id: reply.has_error() for reply in replies} == {here: False, gone: True}


def test_messages_to_unknown_nodes_have_no_id() -> None:
    below = Fragile(lambda partition, run_job: None)
    node = next(iter(below.partition))
    connected, unknown = (Message(RecordDict(), to, "train") for to in (node, 7))
    assert RetryGrid(below).push_messages([unknown, connected]) == [connected.metadata.message_id]


class Remote(HttpGrid):
    """A SuperLink's grid over one in this process, which says what was pulled at once."""

    def __init__(self, below: LocalGrid) -> None:
        super().__init__(token="token")
        self.below, self.pulled = below, list[int]()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return self.below.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        pulled = [reply for message_id in message_ids for reply in self.below.pull_messages([message_id])]
        self.pulled.append(len(pulled))
        return pulled


def test_of_replies_that_come_over_a_network_one_at_a_time_is_brought_into_memory() -> None:
    below = LocalGrid(app, begin_run(), {}, 3)
    remote = Remote(below)
    replies = RetryGrid(remote).send_and_receive(
        [Message(RecordDict(), node, "train") for node in below.get_node_ids()]
    )
    assert len(replies) == 3
    assert remote.pulled == [1, 1, 1]


def megabytes(count: float) -> RecordDict:
    return RecordDict({"arrays": ArrayRecord({"x": Array("uint8", (1,), "numpy.ndarray", bytes(round(count * 1e6)))})})


@pytest.mark.parametrize(
    ("sizes", "refused"),
    [
        ([0.1, 0.2, 0.3], {}),
        ([0.1, 0.6, 0.3], {1: "max_reply_mb"}),
        # In whichever order they come, what is little stays.
        ([0.4, 0.4, 0.3], {1: "max_replies_mb"}),
        ([0.1, 0.45, 0.46], {2: "max_replies_mb"}),
        ([0.46, 0.45, 0.1], {0: "max_replies_mb"}),
        # Of equal ones that to the last message.
        ([0.4, 0.4, 0.4], {2: "max_replies_mb"}),
    ],
)
def test_replies_are_bounded_each_and_together(sizes: list[float], refused: dict[int, str]) -> None:
    contents = iter(sizes)
    sender = ClientApp()
    sender.train()(lambda message, _: Message(megabytes(next(contents)), reply_to=message))
    below = LocalGrid(sender, begin_run(), {}, 3)
    messages = [Message(RecordDict(), node, "train") for node in below.get_node_ids()]
    replies = RetryGrid(below, ReplyBounds(0.5, 1.0)).send_and_receive(messages)
    assert [reply.metadata.src_node_id for reply in replies] == [own.metadata.dst_node_id for own in messages]
    reasons = {i: str(reply.error.reason) for i, reply in enumerate(replies) if is_too_large(reply)}
    assert reasons.keys() == refused.keys()
    for place, setting in refused.items():
        assert f"{sizes[place]:.3g} MB" in reasons[place]
        assert f"`federation.{setting}` = " in reasons[place]


def test_of_an_error_without_end_a_part_is_held() -> None:
    below = LocalGrid(app, begin_run(), {}, 1)
    (node,) = below.get_node_ids()
    held, message = HeldReplies(ReplyBounds(), ["message"]), Message(RecordDict(), node, "train")
    message.metadata.__dict__["_message_id"] = "message"
    held.add(Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "x" * 10**6), reply_to=message))
    (reply,) = held.replies.values()
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert len(str(reply.error.reason)) < 20_000
    assert reply.metadata.src_node_id == node


def test_half_of_the_memory_is_for_replies_where_no_setting_says_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=8e9))
    assert ReplyBounds.of(FederationConfig()).together == 4000
    assert ReplyBounds.of(FederationConfig(max_replies_mb=10)).together == 10


def test_a_server_that_takes_long_to_look_is_looked_at_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look takes 0.2 s, and so there are 2 s from one to the next; the time limit holds."""
    looks, clock = list[float](), [0.0]

    def pass_by(seconds: float) -> None:
        clock[0] += seconds

    class Slow(LocalGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            looks.append(clock[0])
            pass_by(0.2)
            return []

    monkeypatch.setattr(retry_grid, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=pass_by))
    below = Slow(app, begin_run(), {}, 1)
    grid = RetryGrid(below)
    assert grid.send_and_receive([Message(RecordDict(), below.get_node_ids()[0], "train")], timeout=5) == []
    assert looks == pytest.approx([0.0, 2.2, 4.4])
    assert clock == pytest.approx([5.0])


def test_a_reply_whose_parts_are_lost_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower looks for the parts until the time limit is over; what came meanwhile is taken."""
    clock = [0.0]

    class Stalling(Remote):
        stalled, looks = "", Counter[str]()

        def push_messages(self, messages: Iterable[Message]) -> list[str]:
            ids = super().push_messages(messages)
            self.stalled = ids[0]
            return ids

        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            (message_id,) = message_ids
            self.looks[message_id] += 1
            if message_id == self.stalled:
                clock[0] += 200.0
                return []
            return super().pull_messages([message_id]) if self.looks[message_id] > 1 else []

    monkeypatch.setattr(retry_grid, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda _: None))
    below = LocalGrid(app, begin_run(), {}, 3)
    messages = [Message(RecordDict(), node, "train") for node in below.get_node_ids()]
    replies = RetryGrid(Stalling(below)).send_and_receive(messages, timeout=100)
    nodes = {reply.metadata.src_node_id for reply in replies}
    assert nodes == {message.metadata.dst_node_id for message in messages[1:]}
