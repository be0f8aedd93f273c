"""The split GAN on digits: by messages and in one process, with clients that fail, and after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from safetensors.torch import load_file
from torch import Tensor

from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.gan.split_gan.ops import PHASES
from collafuse_flwr.runs.run_layout import RunLayout
from strategies.huscf_gan import HuscfGan
from tests.small_runs import GAN_OPTIONS, bytes_of, connect, metrics, run_strategy, small

GAN: dict[str, Any] = {
    "strategy": "huscf_gan",
    "num_supernodes": 4,
    "num_rounds": 2,
    "data.max_images": 80,
    "partition": "iid",
    "gan.width": 2,
    "gan.batch_size": 8,
    "train.local_epochs": 1.0,
    "evaluation.num_samples": 16,
    "split_gan.client_cuts": ["0000", "0010", "1110", "1111"],
    "clustering.warmup_rounds": 1,
}
Spoil = Callable[[Message, Context], Message | None]


def run(folder: Path, app: ClientApp = client_app, **settings: Any) -> HuscfGan:
    config = small(folder, **(GAN | settings))
    made = run_strategy(config, connect(config, app))
    assert isinstance(made, HuscfGan)
    return made


def spoiled(
    client: int,
    at: Callable[[str, str, int, int], bool],
    spoil: Spoil,
    else_: Callable[[Message, Context], Message] = client_app,
) -> ClientApp:
    """The ClientApp, but one client's answer is spoiled at some message type, phase, round and step."""

    def call(message: Message, context: Context) -> Message:
        request = message.content.config_records.get("config")
        if request is not None and context.node_config["partition-id"] == client:
            read = str(request.get("phase", "")), int(str(request["round"])), int(str(request.get("step", -1)))
            if at(message.metadata.message_type, *read) and (answer := spoil(message, context)) is not None:
                return answer
        return else_(message, context)

    app = ClientApp()
    app.train()(call)
    app.train("split")(call)
    app.evaluate("latent")(call)
    app.evaluate()(call)
    app.query("client_info")(client_app)
    return app


def fail(message: Message, context: Context) -> Message:
    raise RuntimeError("broken")


def die(message: Message, context: Context) -> Message:
    raise KeyboardInterrupt


def state(folder: Path, client: int) -> dict[str, Tensor]:
    return ClientStore(RunLayout(folder).client(client).folder).load(before=100)[1]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gan.wire_dtype": "float16", "split_gan.client_cuts": "0010"},
        {"split_gan.factor_tail_gradients": True, "gan.wire_dtype": "bfloat16", "split_gan.activation_noise": 0.1},
        {"split_gan.factor_tail_gradients": True, "precision": "bfloat16"},
        {
            "split_gan.init": "common",
            "federation.fraction_train": 0.5,
            "clustering.num_clusters": 4,
            "split_gan.average_server_blocks": False,
        },
        GAN_OPTIONS | {"gan.wire_dtype": "float16", "split_gan.activation_noise": 0.1},
    ],
    ids=["mixed cuts", "float16", "factors, bfloat16 and noise", "factors of bfloat16", "a share", "every option"],
)
def test_one_process_gives_the_bits_of_messages(tmp_path: Path, settings: dict[str, Any]) -> None:
    for engine in ("messages", "in_process"):
        run(tmp_path / engine, gan__transport=engine, **settings)
    ours, theirs = bytes_of(tmp_path / "messages"), bytes_of(tmp_path / "in_process")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert "server/middle.safetensors" in ours
    for one, other in zip(metrics(tmp_path / "messages"), metrics(tmp_path / "in_process"), strict=True):
        counts = ("bytes_up", "bytes_down")
        assert {k: v for k, v in one.items() if k not in counts} == {k: v for k, v in other.items() if k not in counts}
        # In one process the frames of messages are not counted, only what is in them.
        for name in counts:
            assert all(0.2 * one[name][c] < other[name][c] <= one[name][c] for c in one["clients"])


@pytest.mark.parametrize("phase", [*PHASES, "close"])
def test_a_client_that_raises_costs_its_rows_and_comes_back(tmp_path: Path, phase: str) -> None:
    def at(kind: str, now: str, round_: int, step: int) -> bool:
        return round_ == 1 and ((phase == now and step == 1) if phase != "close" else kind == "train")

    made = run(tmp_path, spoiled(2, at, fail))
    first, second = metrics(tmp_path)
    assert sorted(first["clients"]) == ["0", "1", "3"]
    assert "broken" in first["failed"]["2"]
    assert sorted(second["clients"]) == sorted(second["evaluation"]) == ["0", "1", "2", "3"]
    assert second["failed"] == {}
    assert all(bool(value.isfinite().all()) for value in made.half.blocks().values())


@pytest.mark.parametrize(
    ("kind", "factor"), [("train.split", "nan"), ("train.split", "1e30"), ("train", "nan"), ("evaluate.latent", "nan")]
)
def test_a_client_that_sends_no_sound_numbers_is_rejected_and_counted(tmp_path: Path, kind: str, factor: str) -> None:
    def poison(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        (record,) = reply.content.array_records.keys()
        arrays = dict(reply.content.array_records[record].items())
        name = next(iter(arrays))
        arrays[name] = Array(arrays[name].numpy() * np.float32(factor))
        reply.content[record] = ArrayRecord(arrays)
        return reply

    made = run(tmp_path, spoiled(0, lambda message, *_: message == kind, poison), num_rounds=1)
    (row,) = metrics(tmp_path)
    assert list(row["rejected"]) == ["0"]
    assert "must be finite" in row["rejected"]["0"]
    assert sorted(row["clients"]) == (["0", "1", "2", "3"] if kind == "evaluate.latent" else ["1", "2", "3"])
    assert all(bool(value.isfinite().all()) for value in made.half.blocks().values())


@pytest.fixture(scope="module", params=[{}, GAN_OPTIONS], ids=["defaults", "every option"])
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that nothing interrupts, and its settings."""
    folder, options = tmp_path_factory.mktemp("straight"), dict(request.param)
    run(folder, **options)
    return folder, options


@pytest.mark.parametrize(
    "at",
    [
        lambda kind, phase, round_, step: kind == "train.split" and (phase, round_, step) == ("judge", 2, 1),
        lambda kind, phase, round_, step: kind == "train" and round_ == 2,
        lambda kind, phase, round_, step: kind == "evaluate",
    ],
    ids=["within a batch", "at the end of a round", "at the samples"],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    straight: tuple[Path, dict[str, Any]], tmp_path: Path, at: Callable[[str, str, int, int], bool]
) -> None:
    uninterrupted, options = straight
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, spoiled(1, at, die), **options)
    run(tmp_path, **options)
    assert metrics(uninterrupted) == metrics(tmp_path)
    assert bytes_of(uninterrupted) == bytes_of(tmp_path)


def test_an_absent_client_comes_back_to_the_blocks_of_its_cluster(tmp_path: Path) -> None:
    """Also where nobody else of the cluster was there meanwhile."""

    def at(kind: str, phase: str, round_: int, step: int) -> bool:
        return round_ == 2 and phase == "latent"

    made = run(
        tmp_path,
        spoiled(3, at, fail),
        num_rounds=1,
        clustering__warmup_rounds=0,
        split_gan__client_cuts="0000",
        clustering__num_clusters=4,
    )
    assert len(set(made.cluster_of.values())) == 4
    mine = made.cluster_of[3]
    blocks = {name: value.clone() for name, value in made.models[mine].items()}
    # A cluster of one has its client's own blocks.
    own = state(tmp_path, 3)["g_head.blocks.0.linear.weight"]
    assert torch.equal(blocks["generator.0.linear.weight"], own)
    again = run(
        tmp_path,
        spoiled(3, at, fail),
        num_rounds=2,
        clustering__warmup_rounds=0,
        split_gan__client_cuts="0000",
        clustering__num_clusters=4,
    )
    row = metrics(tmp_path)[-1]
    assert list(row["failed"]) == ["3"]
    assert again.cluster_of[3] == mine
    assert all(torch.equal(again.models[mine][name], value) for name, value in blocks.items())
    assert set(again._fresh_weights(3)) == set(blocks)
    assert row["evaluation"].keys() == {"0", "1", "2", "3"}


def test_all_of_a_warm_up_are_one_cluster_and_begin_the_next_round_alike(tmp_path: Path) -> None:
    made = run(tmp_path, split_gan__client_cuts="0000", clustering__warmup_rounds=2)
    for row in metrics(tmp_path):
        assert set(row["server"]["clusters"].values()) == {0}
        assert sum(row["server"]["weights"].values()) == pytest.approx(1)
    fresh = [made._fresh_weights(client) for client in range(4)]
    assert all(torch.equal(fresh[0][name], other[name]) for other in fresh[1:] for name in fresh[0])


def test_clients_begin_alike_only_if_they_are_to(tmp_path: Path) -> None:
    """With a learning rate of next to nothing, what they end with is what they began with."""
    for init in ("common", "independent"):
        run(
            tmp_path / init,
            split_gan__init=init,
            num_rounds=1,
            gan__learning_rate=1e-30,
            split_gan__client_cuts="0000",
            gan__transport="in_process",
        )
        heads = [state(tmp_path / init, client)["g_head.blocks.0.linear.weight"] for client in range(4)]
        assert [torch.equal(heads[0], other) for other in heads[1:]] == [init == "common"] * 3


def test_a_client_that_was_never_selected_samples_and_begins_with_the_blocks_of_the_others(tmp_path: Path) -> None:
    made = run(tmp_path, federation__fraction_train=0.25, num_rounds=1)
    (row,) = metrics(tmp_path)
    (selected,) = row["clients"]
    assert sorted(row["evaluation"]) == ["0", "1", "2", "3"]
    other = next(client for client in range(4) if str(client) != selected)
    blocks = made.models[0] | {name: value for name, value in made.half.blocks().items() if name not in made.models[0]}
    kept = load_file(RunLayout(tmp_path).client(other).generator)
    assert kept
    assert all(torch.equal(blocks[name], value) for name, value in kept.items())
    assert all(torch.equal(blocks[name], value) for name, value in made._fresh_weights(other).items())


def test_samples_are_of_averaged_weights_where_a_client_has_trained_last(tmp_path: Path) -> None:
    run(tmp_path, split_gan__ema=0.9)
    for client in (0, 2):
        kept, made = state(tmp_path, client), load_file(RunLayout(tmp_path).client(client).generator)
        averaged = {name: value for name, value in kept.items() if name.startswith("ema.g_")}
        assert len(averaged) == len(made) > 0
        for name, value in averaged.items():
            part, _, index, own = name.removeprefix("ema.").split(".", 3)
            assert torch.equal(made[f"generator.{index}.{own}"], value)
            if "weight" in own:
                assert not torch.equal(kept[f"{part}.blocks.{index}.{own}"], value)


def test_who_samples_from_averages_of_its_own_is_sent_no_weights_for_it(tmp_path: Path) -> None:
    sent: dict[int, bool] = {}

    def note(message: Message, context: Context) -> None:
        sent[int(context.node_config["partition-id"])] = "weights" in message.content.array_records

    for absent in (None, 2):
        app = ClientApp()

        def call(message: Message, context: Context, absent: int | None = absent) -> Message:
            if message.metadata.message_type == "evaluate.latent":
                note(message, context)
            if message.metadata.message_type == "train" and context.node_config["partition-id"] == absent:
                raise RuntimeError("broken")
            return client_app(message, context)

        for register in (app.train(), app.train("split"), app.evaluate("latent"), app.evaluate()):
            register(call)
        app.query("client_info")(client_app)
        run(tmp_path / str(absent), app, num_rounds=1, split_gan__ema=0.9)
        assert sent == {client: client == absent for client in range(4)}


def test_moments_are_forgotten_at_an_average_and_not_before(tmp_path: Path) -> None:
    """Adam's count of steps is that of the round's batches where it began anew."""
    steps = {}
    for reset in (False, True):
        made = run(tmp_path / str(reset), split_gan__reset_moments=reset)
        kept = state(tmp_path / str(reset), 0)
        steps[reset] = int(kept["adam.g_head.0.step"])
        assert any(name.startswith("adam.") for name in made.half.state()) != reset
    assert steps[False] == 2 * steps[True] > 0
