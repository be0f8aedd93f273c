"""A client that says it has more than it has, of another kind than the others, or sends more than it should."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.core.text import LONGEST_REASON
from collafuse_flwr.runs.history import History, RoundRecord
from collafuse_flwr.runs.run_dir import open_run
from collafuse_flwr.runs.run_status import RunStatus
from collafuse_flwr.wire.codec import ClientError, encode
from collafuse_flwr.wire.validation import LARGEST_ACTIVATION, check_activations
from strategies import make_strategy
from tests.component.strategies.test_client_manager import HELLO, FakeFederation
from tests.component.strategies.test_huscf_gan import run as split_run
from tests.component.strategies.test_huscf_gan import spoiled as split_spoiled
from tests.small_runs import connect, metrics, run_strategy, small, spoiled


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"num_images": 10**15}, "client 2 says `num_images` = 1000000000000000, which is more than 100000000"),
        ({"num_classes": 10**9}, "client 2 says `num_classes` = 1000000000, which is more than 100000"),
        ({"channels": 1000}, "client 2 says `channels` = 1000, which is more than 64"),
        ({"size": 10**5}, "client 2 says `size` = 100000, which is more than 8192"),
        ({"num_images": 10**8}, "client 2 would upload 6.4e+03 MB, more than `federation.max_reply_mb` = 4096"),
    ],
)
def test_an_introduction_has_bounds(said: dict[str, int], reason: str) -> None:
    """10^15 images and 10^9 classes were believed: a round of a GAN became 1.6 x 10^14 batches."""
    assert FakeFederation(3).refusal(2, replace(HELLO, partition_id=2, **said)) == reason


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_who_comes_first_does_not_decide_the_shape(odd: int) -> None:
    federation = FakeFederation(3)
    federation.says[odd] = replace(HELLO, partition_id=odd, size=16)
    federation.connect(odd)
    federation.register_new()
    federation.connect(*({0, 1, 2} - {odd}))
    federation.register_new()
    assert set(federation.client_manager.nodes) == {0, 1, 2} - {odd}
    (reason,) = federation.client_manager.refused.values()
    assert reason.startswith(f"client {odd} has images of 1 x 16 x 16 in 10 classes, client ")


def test_the_settings_decide_the_shape_where_they_say_it() -> None:
    federation = FakeFederation(3, image_size=8)
    federation.says |= {i: replace(HELLO, partition_id=i, size=16) for i in (0, 1)}
    federation.connect(0, 1, 2)
    federation.register_new()
    assert set(federation.client_manager.nodes) == {2}


def test_a_majority_that_comes_after_the_start_changes_nothing() -> None:
    federation = FakeFederation(3, **{"federation.min_available_nodes": 1})
    federation.connect(0)
    federation.client_manager.wait(federation.grid)
    federation.says |= {i: replace(HELLO, partition_id=i, size=16) for i in (1, 2)}
    federation.connect(1, 2)
    federation.register_new()
    assert set(federation.client_manager.nodes) == {0}


# Sizes.


def test_a_reply_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """It costs only its client."""
    config = small(tmp_path, model="nano", federation__max_reply_mb=0.01)

    def large(message: Message, context: Context) -> Message:
        reply: Message = client_app(message, context)
        reply.content.array_records["upload"]["x_k"].data = bytes(20_000)
        return reply

    run_strategy(config, connect(config, spoiled(1, large)))
    assert "0.02" in metrics(tmp_path)[0]["rejected"]["1"]
    assert "are more than `federation.max_reply_mb` = 0.01" in metrics(tmp_path)[0]["rejected"]["1"]
    assert sorted(metrics(tmp_path)[0]["clients"]) == ["0", "2"]


def test_replies_that_are_each_within_the_bound_are_bounded_together(tmp_path: Path) -> None:
    """Two clients with just less than a reply may have cost themselves, and not the third."""
    config = small(tmp_path, model="nano", federation__max_reply_mb=0.5, federation__max_replies_mb=0.6)

    def large(message: Message, context: Context) -> Message:
        reply: Message = client_app(message, context)
        if context.node_config["partition-id"] != 1:
            reply.content.array_records["upload"]["x_k"].data = bytes(490_000)
        return reply

    run_strategy(config, connect(config, spoiled({0, 2}, large)))
    row = metrics(tmp_path)[0]
    assert (list(row["clients"]), sorted(row["rejected"])) == (["1"], ["0", "2"])
    # The other one of the two is held, and is no upload.
    together = "MB, the most of all replies, which together are more than `federation.max_replies_mb` = 0.6"
    assert len([reason for reason in row["rejected"].values() if reason.endswith(together)]) == 1


def test_an_introduction_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    config = small(tmp_path, num_rounds=1, federation__min_available_nodes=2, federation__max_reply_mb=0.5)

    def call(message: Message, context: Context) -> Message:
        reply: Message = client_app(message, context)
        if context.node_config["partition-id"] == 1:
            reply.content["more"] = ArrayRecord({"x": Array(np.zeros(10**6, np.uint8))})
        return reply

    app = ClientApp()
    app.query("client_info")(call)
    strategy = make_strategy(config, tmp_path, Progress(quiet=True), lambda _: None)
    strategy.connect(connect(config, app))
    assert sorted(strategy.client_manager.nodes) == [0, 2]
    (reason,) = strategy.client_manager.refused.values()
    assert reason == "a client failed to introduce itself: 1 MB are more than `federation.max_reply_mb` = 0.5"


@pytest.mark.parametrize("value", [2 * LARGEST_ACTIVATION, float("nan"), float("inf")])
def test_activations_are_bounded(value: float) -> None:
    with pytest.raises(UploadError, match="must be finite and within 10000"):
        check_activations({"gh": torch.full((2, 2), value)}, {"gh": torch.Size((2, 2))})


def times(factor: float) -> Callable[[Message, Context], Message]:
    """An answer of the split GAN, of which all is so many times larger."""

    def spoil(message: Message, context: Context) -> Message:
        reply: Message = client_app(message, context)
        arrays = reply.content.array_records["activations"]
        larger = {name: Array(np.float32(factor) * array.numpy()) for name, array in arrays.items()}
        reply.content["activations"] = ArrayRecord(larger)
        return reply

    return spoil


def in_phase(phase: str, spoil: Callable[[Message, Context], Message]) -> ClientApp:
    return split_spoiled(2, lambda _, now, round_, step: (now, round_, step) == (phase, 1, 1), spoil)


@pytest.mark.parametrize("phase", ["latent", "fake", "discriminator"])
def test_activations_that_no_network_makes_cost_only_who_sent_them(tmp_path: Path, phase: str) -> None:
    """A hundredfold is within the constant bound, and made the batch statistics of all clients' rows."""
    split_run(tmp_path / "hostile", in_phase(phase, times(100)), num_rounds=1)
    split_run(tmp_path / "absent", in_phase(phase, raises), num_rounds=1)
    (row,) = metrics(tmp_path / "hostile")
    assert "times what its network can make" in row["rejected"]["2"]
    for name in ("server/middle.safetensors", "clients/0/state-000001.safetensors"):
        assert (tmp_path / "hostile" / name).read_bytes() == (tmp_path / "absent" / name).read_bytes()


@pytest.mark.parametrize("phase", ["judge", "score", "generator"])
def test_gradients_of_one_client_count_for_a_multiple_of_the_others_at_most(tmp_path: Path, phase: str) -> None:
    """No weights bound them that the server knows; one client's were all of a step."""

    def moments(folder: Path, spoil: Callable[[Message, Context], Message]) -> float:
        half = split_run(folder, in_phase(phase, spoil), num_rounds=1, gan__transport="messages").half
        return max(float(x.max()) for name, x in half.state().items() if name.endswith("exp_avg_sq"))

    honest = moments(tmp_path / "honest", times(1))
    # Of four clients one has ten times what the others have, so squares are some hundred times as large.
    assert moments(tmp_path / "hostile", times(1e4)) < 1000 * honest


#: Clears the screen, names the window, draws over the line, turns text around, and goes on for long.
SHOUT = "\x1b[2J\x1b]0;mine\x07\rround 2/2: all is well\n\u202e[bold]" + "x" * 10_000


def raises(message: Message, context: Context) -> Message:
    raise RuntimeError(SHOUT)


def refuses(message: Message, context: Context) -> Message:
    return Message(encode(ClientError(SHOUT)), reply_to=message)


@pytest.mark.parametrize("spoil", [raises, refuses])
def test_what_a_client_says_of_its_failure_cannot_draw_on_the_operators_terminal(
    tmp_path: Path, spoil: Callable[[Message, Context], Message]
) -> None:
    config = small(tmp_path / "out", num_rounds=1)
    open_run(config, tmp_path / "out")
    run_strategy(config, connect(config, spoiled(2, spoil)))
    (row,) = metrics(tmp_path / "out")
    assert list(row["failed"]) == ["2"]
    for line in (row["failed"]["2"], *RunStatus.of(tmp_path / "out").lines(0.0)):
        assert line.isprintable()
        assert len(line) < LONGEST_REASON + 100


def test_nor_can_what_an_earlier_version_wrote_down(tmp_path: Path) -> None:
    open_run(small(tmp_path), tmp_path / "out")
    History(tmp_path / "out", [RoundRecord(1, cuts={"0": 6}, rejected={"0": SHOUT})]).write_metrics()
    assert all(line.isprintable() for line in RunStatus.of(tmp_path / "out").lines(0.0))


def test_nor_can_an_introduction() -> None:
    federation = FakeFederation(2)
    federation.says = {client: encode(ClientError(SHOUT)) for client in range(2)}
    federation.connect(0, 1)
    federation.register_new()
    assert all(reason.isprintable() for reason in federation.client_manager.refused.values())
    assert len(federation.client_manager.refused) == 2
