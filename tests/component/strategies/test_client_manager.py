"""Who takes part: introductions that agree, clients that come late, leave and come back, and the choice for a round."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import UserError
from collafuse_flwr.wire.codec import ClientError, encode
from collafuse_flwr.wire.common import ClientInfo
from simulations.runners.app_loading import begin_run
from simulations.runners.local_grid import LocalGrid
from strategies import client_manager as module
from strategies.client_manager import ClientManager
from tests.small_runs import dotted

HELLO = ClientInfo(
    partition_id=0, cut_step=20, timesteps=100, num_images=9, channels=1, size=8, num_classes=10, num_attributes=0
)


class FakeFederation:
    """Clients that give scripted replies, over a grid in this process."""

    def __init__(self, count: int, **settings: Any) -> None:
        self.config = Config.from_flat({"num_supernodes": count, "federation.round_timeout": 5.0} | dotted(settings))
        self.says: dict[int, Any] = {client: replace(HELLO, partition_id=client) for client in range(count)}
        self.selected: list[int] = []
        app = ClientApp()
        app.query("client_info")(self._answer)
        self.grid = LocalGrid(app, begin_run(), self.config.to_flower(), count, [])
        self.client_manager = ClientManager(self.config)

    def _answer(self, message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        self.selected.append(client)
        said = self.says[client]
        if isinstance(said, Exception):
            raise said
        return Message(said if isinstance(said, RecordDict) else encode(said), reply_to=message)

    def connect(self, *clients: int) -> list[int]:
        return [self.grid.add_node(client) for client in clients]

    def register_new(self) -> None:
        self.selected.clear()
        self.client_manager.register_new(self.grid)

    def refusal(self, client: int, said: object) -> str:
        """Why this introduction is refused, after that of client 0 was accepted."""
        self.connect(0)
        self.register_new()
        before = dict(self.client_manager.client_infos)
        self.says[client] = said
        (node,) = self.connect(client)
        self.register_new()
        assert self.client_manager.client_infos == before
        assert node not in self.client_manager.nodes.values()
        reason = self.client_manager.refused[node]
        assert len(reason.splitlines()) == 1
        return reason


def test_everybody_introduces_themselves_once() -> None:
    federation = FakeFederation(3)
    nodes = federation.connect(0, 1, 2)
    federation.register_new()
    assert sorted(federation.selected) == [0, 1, 2]
    assert federation.client_manager.nodes == dict(enumerate(nodes))
    assert federation.client_manager.client_infos == federation.says
    assert [federation.client_manager.client_of(node) for node in nodes] == [0, 1, 2]
    assert federation.client_manager.client_of(max(nodes) + 1) is None
    federation.register_new()
    assert not federation.selected


def test_a_late_joiner_is_selected_when_it_connects() -> None:
    federation = FakeFederation(3)
    federation.connect(0, 2)
    federation.register_new()
    federation.connect(1)
    federation.register_new()
    assert federation.selected == [1]
    assert set(federation.client_manager.nodes) == {0, 1, 2}


def test_a_client_that_left_is_not_chosen_and_is_welcome_under_another_node() -> None:
    federation = FakeFederation(2)
    first, _ = federation.connect(0, 1)
    federation.register_new()
    federation.grid.remove_node(first)
    federation.register_new()
    assert federation.client_manager.sample(1) == [1]
    assert set(federation.client_manager.client_infos) == {0, 1}, "what was agreed stays agreed"
    (again,) = federation.connect(0)
    federation.register_new()
    assert federation.selected == [0]
    assert federation.client_manager.nodes[0] == again
    assert federation.client_manager.sample(1) == [0, 1]


def test_a_client_may_not_come_back_as_another() -> None:
    federation = FakeFederation(2)
    first, _ = federation.connect(0, 1)
    federation.register_new()
    federation.grid.remove_node(first)
    federation.says[0] = replace(HELLO, cut_step=40)
    (again,) = federation.connect(0)
    federation.register_new()
    assert federation.client_manager.client_infos[0].cut_step == 20
    assert "client 0 said" in federation.client_manager.refused[again]
    assert 0 not in federation.client_manager.nodes


def test_two_nodes_may_not_be_one_client() -> None:
    federation = FakeFederation(2)
    federation.says[1] = HELLO
    federation.connect(0, 1)
    federation.register_new()
    assert set(federation.client_manager.nodes) == {0}
    assert list(federation.client_manager.refused.values()) == ["two nodes say that they are client 0"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (replace(HELLO, partition_id=3), "client 3 is not in 0..2"),
        (replace(HELLO, partition_id=-1), "client -1 is not in 0..2"),
        (replace(HELLO, partition_id=2, timesteps=50), "client 2 cuts at 20 of 50 steps"),
        (replace(HELLO, partition_id=2, cut_step=101), "client 2 cuts at 101 of 100 steps"),
        (replace(HELLO, partition_id=2, cut_step=-1), "client 2 cuts at -1 of 100 steps"),
        (replace(HELLO, partition_id=2, num_images=0), "client 2 describes no images"),
        (replace(HELLO, partition_id=2, num_images=-3), "client 2 describes no images"),
        (
            replace(HELLO, partition_id=2, channels=3),
            "client 2 has images of 3 x 8 x 8 in 10 classes, client 0 has images of 1 x 8 x 8 in 10 classes; all must",
        ),
        (replace(HELLO, partition_id=2, size=16), "client 2 has images of 1 x 16 x 16 in 10 classes, client 0 has"),
        (replace(HELLO, partition_id=2, num_classes=9), "client 2 has images of 1 x 8 x 8 in 9 classes, client 0 has"),
        (replace(HELLO, partition_id=2, num_attributes=4), "client 2 describes no images"),
        (RecordDict(), "`metrics` must hold exactly partition_id, "),
        (RecordDict({"metrics": MetricRecord({"partition_id": 2})}), "`metrics` must hold exactly partition_id, "),
        (RecordDict({**encode(HELLO), "more": ConfigRecord()}), "`ClientInfo` may hold metrics, not more"),
        (encode(ClientError("`dataset_path` = '' is not allowed")), "`dataset_path` = '' is not allowed"),
        (ValueError("the disk is full"), "a client failed to introduce itself: ValueError: the disk is full"),
    ],
)
def test_an_introduction_that_does_not_fit_is_refused_with_a_reason(said: object, reason: str) -> None:
    assert FakeFederation(3).refusal(2, said).startswith(reason)


def test_a_client_that_mends_its_ways_is_taken_in() -> None:
    """It gets a request again, as its node was never taken in."""
    federation = FakeFederation(2)
    federation.refusal(1, replace(HELLO, partition_id=1, num_images=0))
    federation.says[1] = replace(HELLO, partition_id=1)
    federation.register_new()
    assert federation.selected == [1]
    assert set(federation.client_manager.nodes) == {0, 1}
    assert not federation.client_manager.refused


# The choice for a round.


def manager_of(count: int, fraction: float, seed: int = 0) -> ClientManager:
    members = ClientManager(
        Config.from_flat({"num_supernodes": max(count, 1), "federation.fraction_train": fraction, "seed": seed})
    )
    members.nodes = {client: 10**9 - client for client in reversed(range(count))}
    return members


@pytest.mark.parametrize(
    ("count", "fraction", "chosen"),
    [(10, 1.0, 10), (10, 0.5, 5), (10, 0.34, 3), (10, 0.01, 1), (1, 0.5, 1), (7, 0.999, 7)],
)
def test_a_share_of_the_clients_but_at_least_one_is_chosen(count: int, fraction: float, chosen: int) -> None:
    for round_ in range(1, 20):
        clients = manager_of(count, fraction).sample(round_)
        assert len(clients) == chosen
        assert clients == sorted(set(clients))
        assert set(clients) <= set(range(count))


def test_nobody_is_chosen_where_nobody_is() -> None:
    assert manager_of(0, 1.0).sample(1) == []


def test_the_choice_follows_from_seed_and_round_and_not_from_node_ids() -> None:
    """Which Flower draws anew in every run."""
    members, others = manager_of(30, 0.3), manager_of(30, 0.3)
    others.nodes = {client: 17 * client for client in range(30)}
    assert [members.sample(r) for r in range(1, 9)] == [others.sample(r) for r in range(1, 9)]
    assert members.sample(1) != members.sample(2)
    assert members.sample(1) != manager_of(30, 0.3, seed=1).sample(1)


def test_over_many_rounds_everybody_is_chosen_equally_often() -> None:
    """Each of 20 clients in 30 % of 1,000 rounds, within 5 standard deviations."""
    members = manager_of(20, 0.3)
    counts = [0] * 20
    for round_ in range(1000):
        for client in members.sample(round_):
            counts[client] += 1
    assert all(abs(count - 300) < 5 * (1000 * 0.3 * 0.7) ** 0.5 for count in counts)


# Waiting before the first round.


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(("min_nodes", "present"), [(0, 3), (2, 2), (1, 1)])
def test_the_run_begins_when_enough_clients_are_there(min_nodes: int, present: int) -> None:
    federation = FakeFederation(3, federation__min_available_nodes=min_nodes)
    federation.connect(*range(present))
    federation.client_manager.wait(federation.grid)
    assert set(federation.client_manager.nodes) == set(range(present))


@pytest.mark.usefixtures("hurried")
def test_clients_that_come_one_by_one_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    federation = FakeFederation(3)
    coming = iter(range(3))

    def sleep(_: float) -> None:
        federation.connect(next(coming))

    monkeypatch.setattr("strategies.client_manager.time.sleep", sleep)
    monkeypatch.setattr("strategies.client_manager.SILENCE", 0.0)
    lines: list[str] = []
    federation.client_manager.wait(federation.grid, say=lines.append)
    assert set(federation.client_manager.nodes) == {0, 1, 2}
    assert [line.partition(";")[0] for line in lines] == [f"{came} of 3 clients have come" for came in range(3)]
    assert '--federation-config "num-supernodes=3"' in lines[0]


@pytest.mark.usefixtures("hurried")
def test_nothing_is_said_of_clients_that_come_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    federation = FakeFederation(1)
    monkeypatch.setattr("strategies.client_manager.time.sleep", lambda _: federation.connect(0))
    lines: list[str] = []
    federation.client_manager.wait(federation.grid, say=lines.append)
    assert lines == []


@pytest.mark.usefixtures("hurried")
def test_a_resumed_run_waits_for_the_clients_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was agreed is known from the checkpoint, but the clients have to be there again."""
    federation = FakeFederation(2)
    federation.client_manager.restore([replace(HELLO, partition_id=client) for client in range(2)])
    coming = iter(range(2))

    def sleep(_: float) -> None:
        federation.connect(next(coming))

    monkeypatch.setattr("strategies.client_manager.time.sleep", sleep)
    federation.client_manager.wait(federation.grid)
    assert federation.client_manager.sample(1) == [0, 1]


@pytest.mark.usefixtures("hurried")
def test_waiting_ends_with_a_reason() -> None:
    federation = FakeFederation(3, federation__round_timeout=0.05)
    federation.connect(1)
    began = time.monotonic()
    with pytest.raises(UserError, match=re.escape("only 1 of 3 clients came within `federation.round_timeout`")):
        federation.client_manager.wait(federation.grid)
    assert time.monotonic() - began < 5


@pytest.mark.usefixtures("hurried")
def test_a_run_goes_on_without_the_clients_that_were_refused() -> None:
    federation = FakeFederation(3)
    federation.says[1] = replace(HELLO, partition_id=1, num_images=0)
    federation.connect(0, 1, 2)
    federation.client_manager.wait(federation.grid)
    assert set(federation.client_manager.nodes) == {0, 2}


@pytest.mark.usefixtures("hurried")
def test_a_run_of_which_all_clients_were_refused_ends_with_a_clients_reason() -> None:
    federation = FakeFederation(2)
    federation.says = {client: encode(ClientError("`dataset` is missing")) for client in range(2)}
    federation.connect(0, 1)
    with pytest.raises(UserError, match=r"^`dataset` is missing$"):
        federation.client_manager.wait(federation.grid)
