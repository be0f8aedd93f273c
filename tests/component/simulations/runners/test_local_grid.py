from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from simulations.runners.app_loading import begin_run
from simulations.runners.local_grid import LocalGrid

app = ClientApp()
kept: list[RecordDict] = []


@app.train()
def train(message: Message, context: Context) -> Message:
    """Count calls in the context, then do what the message asks for."""
    calls = context.state.config_records.get("calls", ConfigRecord({"n": 0}))
    context.state["calls"] = ConfigRecord({"n": int(str(calls["n"])) + 1})
    wish = message.content.config_records["ask"]["wish"]
    if wish == "raise":
        raise ValueError("no\nmore lines")
    if wish == "exit":
        raise SystemExit(3)
    if wish == "interrupt":
        raise KeyboardInterrupt
    if wish == "reply nonsense":
        return None  # type: ignore[return-value] # what a careless app does
    if wish == "change config":
        context.run_config["cut-ratio"] = 0.9
    kept.append(message.content)
    info = {"partition": context.node_config["partition-id"], "of": context.node_config["num-partitions"]}
    numbers = MetricRecord({"cut": float(context.run_config["cut-ratio"]), "calls": int(str(calls["n"])) + 1})
    return Message(RecordDict({"info": ConfigRecord(dict(info)), "numbers": numbers}), reply_to=message)


@pytest.fixture
def grid() -> LocalGrid:
    return LocalGrid(app, begin_run(), {"cut-ratio": 0.2}, 3)


def ask(node: int, wish: str = "") -> Message:
    return Message(RecordDict({"ask": ConfigRecord({"wish": wish})}), node, "train")


def ask_all(grid: LocalGrid, wish: str = "") -> list[Message]:
    return grid.send_and_receive([ask(node, wish) for node in grid.get_node_ids()])


def partitions(replies: list[Message]) -> set[object]:
    return {reply.content.config_records["info"]["partition"] for reply in replies}


def test_every_node_answers_from_its_own_context(grid: LocalGrid) -> None:
    for call in (1, 2):
        replies = ask_all(grid)
        assert partitions(replies) == {0, 1, 2}
        assert [reply.content.metric_records["numbers"]["calls"] for reply in replies] == [call] * 3
        assert {reply.metadata.src_node_id for reply in replies} == set(grid.get_node_ids())


def test_replies_arrive_one_by_one_and_name_their_message(grid: LocalGrid) -> None:
    messages = [ask(node) for node in grid.get_node_ids()]
    ids = grid.push_messages(messages)
    assert ids == [message.metadata.message_id for message in messages]
    assert [reply.metadata.reply_to_message_id for reply in grid.pull_messages(ids[1:2])] == [ids[1]]
    assert [reply.metadata.reply_to_message_id for reply in grid.pull_messages(ids)] == [ids[0]]
    assert [reply.metadata.reply_to_message_id for reply in grid.pull_messages(ids)] == [ids[2]]
    assert grid.pull_messages(ids) == []


@pytest.mark.parametrize(
    ("wish", "code", "reason"),
    [
        ("raise", ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "ValueError: no"),
        ("reply nonsense", ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "AttributeError"),
        ("exit", ErrorCode.CLIENT_APP_CRASHED, "SystemExit: 3"),
    ],
)
def test_an_error_is_an_error_reply_and_leaves_the_context_alone(
    grid: LocalGrid, wish: str, code: int, reason: str
) -> None:
    node = grid.get_node_ids()[0]
    grid.send_and_receive([ask(node)])
    (reply,) = grid.send_and_receive([ask(node, wish)])
    assert reply.has_error()
    assert reply.error.code == code
    assert (reply.error.reason or "").startswith(reason)
    assert reply.metadata.src_node_id == node
    assert grid.state_of(node).config_records["calls"]["n"] == 1


def test_an_interrupt_passes(grid: LocalGrid) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask_all(grid, "interrupt")


def test_an_unknown_action_is_an_error_reply(grid: LocalGrid) -> None:
    (reply,) = grid.send_and_receive([Message(RecordDict(), grid.get_node_ids()[0], "query.nothing")])
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION


def test_no_memory_is_shared_between_the_sides(grid: LocalGrid) -> None:
    array = Array(np.arange(4.0))
    content = RecordDict({"ask": ConfigRecord({"wish": ""}), "arrays": ArrayRecord({"x": array})})
    grid.send_and_receive([Message(content, grid.get_node_ids()[0], "train")])
    received = kept.pop()
    assert received is not content
    assert received.array_records["arrays"]["x"] is not array
    received.array_records["arrays"]["x"].data = b"spoiled"
    assert content.array_records["arrays"]["x"].numpy().tolist() == [0, 1, 2, 3]


def test_messages_that_wait_have_the_bytes_of_what_they_share_in_common(grid: LocalGrid) -> None:
    """A thousand clients may be sent the same weights."""
    arrays = ArrayRecord({"x": Array(np.arange(4.0))})
    contents = [RecordDict({"ask": ConfigRecord({"wish": ""}), "arrays": arrays}) for _ in range(3)]
    grid.push_messages(Message(c, node, "train") for c, node in zip(contents, grid.get_node_ids(), strict=True))
    waiting = [message.content.array_records["arrays"]["x"].data for message in grid._waiting.values()]
    assert [data is arrays["x"].data for data in waiting] == [True] * 3


def test_a_message_is_as_it_was_when_it_was_sent(grid: LocalGrid) -> None:
    message = ask(grid.get_node_ids()[0])
    ids = grid.push_messages([message])
    message.content.config_records["ask"]["wish"] = "raise"
    assert grid.pull_messages(ids)[0].has_content()


def test_a_client_cannot_change_the_settings(grid: LocalGrid) -> None:
    ask_all(grid, "change config")
    assert all(reply.content.metric_records["numbers"]["cut"] == 0.2 for reply in ask_all(grid))


def test_nodes_join_and_leave() -> None:
    grid = LocalGrid(app, begin_run(), {"cut-ratio": 0.2}, 3, partitions=[2])
    assert partitions(ask_all(grid)) == {2}
    late = grid.add_node(0)
    replies = ask_all(grid)
    assert partitions(replies) == {0, 2}
    assert {reply.content.config_records["info"]["of"] for reply in replies} == {3}
    ids = grid.push_messages([ask(late)])
    grid.remove_node(late)
    assert late not in grid.get_node_ids()
    assert grid.pull_messages(ids)[0].error.code == ErrorCode.NODE_UNAVAILABLE
    assert grid.push_messages([ask(late)]) == []


def test_no_client_is_begun_after_the_timeout(grid: LocalGrid) -> None:
    assert grid.send_and_receive([ask(node) for node in grid.get_node_ids()], timeout=0.0) == []
