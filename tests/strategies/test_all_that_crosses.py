"""Every message of every strategy holds what is listed and nothing else, and the guard sees a wire that holds more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from collafuse_flwr.client import collafuse as client
from collafuse_flwr.config.config import Config
from collafuse_flwr.config.sections import ENDS, FEDERATED, SPLIT
from collafuse_flwr.privacy.release import Upload
from collafuse_flwr.wire import collafuse as split
from collafuse_flwr.wire.collafuse import TrainReply, pack_train_reply
from strategies.collafuse import CollaFuse
from tests.message_guard import ANY_WEIGHT, MESSAGES, WEIGHTS, Tap, guard
from tests.small_runs import connect, run_strategy, small

QUICK = {"num_supernodes": 2, "num_rounds": 1, "max_images": 60, "timesteps": 10, "model": "nano", "num_samples": 4}


def crossed(folder: Path, strategy: str) -> tuple[Config, Tap]:
    """All messages of a small run in which clients also start from the backbone."""
    begin = {"client_init": "backbone", "client_init_round": 1}
    config, tap = small(folder, strategy=strategy, **QUICK, **begin), Tap()
    run_strategy(config, connect(config, tap.app))
    return config, tap


def test_every_strategy_is_listed() -> None:
    assert MESSAGES.keys() == {*SPLIT, *ENDS, *FEDERATED}


def test_no_field_is_listed_for_what_must_never_leave() -> None:
    """The noise, the seed or secret behind it, and the clean image, under whatever name they have in the code."""
    listed = [allowed for messages in MESSAGES.values() for allowed in messages.values()]
    fields = {key for allowed in listed for keys in allowed.values() for key in keys}
    assert fields.isdisjoint({"noise", "eps", "x_0", "x_t", "t", "image", "images", "seed", "secret"})
    assert not any(WEIGHTS in MESSAGES[name]["train", "up"].values() for name in ("collafuse", "pfdm", "oracle"))


@pytest.mark.parametrize("strategy", sorted(MESSAGES))
def test_a_run_sends_what_is_listed_and_no_more(tmp_path: Path, strategy: str) -> None:
    config, tap = crossed(tmp_path, strategy)
    seen = guard(config, tap.crossed)
    uploads = {key for kind, way, name, key in seen if (kind, way, name) == ("train", "up", "upload")}
    sends_images = strategy in {*SPLIT, "centralised"}
    assert uploads == ({"x_k", "scale", "labels"} if sends_images else set())
    assert ("train", "up", "weights", ANY_WEIGHT) not in seen or strategy in {*FEDERATED, "hybrid"}
    assert {kind for kind, *_ in seen} == {"query", "train", "evaluate"}


# Mutations: a wire that carries more, which both sides have agreed upon, is what the guard must see.


def _noise_in_the_upload(patch: pytest.MonkeyPatch) -> None:
    """The first paper's triple: x_t, its noise and (known to all) its t."""
    pack, read = split._upload_arrays, split._read_upload

    def with_noise(upload: Upload) -> dict[str, Array]:
        return pack(upload) | {"noise": Array(np.zeros_like(upload.x_k))}

    def without(record: ArrayRecord) -> Upload:
        return read(ArrayRecord({key: array for key, array in record.items() if key != "noise"}))

    patch.setattr(split, "_upload_arrays", with_noise)
    patch.setattr(split, "_read_upload", without)


def _noise_beside_the_upload(patch: pytest.MonkeyPatch) -> None:
    def with_noise(reply: TrainReply) -> RecordDict:
        return RecordDict({**pack_train_reply(reply), "noise": ArrayRecord({"x_k": Array(np.zeros(3))})})

    patch.setattr(client, "pack_train_reply", with_noise)
    _lax(patch, "noise")


def _noise_among_the_numbers(patch: pytest.MonkeyPatch) -> None:
    def with_noise(reply: TrainReply) -> RecordDict:
        content = pack_train_reply(reply)
        numbers = MetricRecord({**content.metric_records["numbers"], "noise": [0.5, -0.25]})
        return RecordDict({**content, "numbers": numbers})

    patch.setattr(client, "pack_train_reply", with_noise)
    _lax(patch, "numbers")


def _noise_as_a_second_channel(patch: pytest.MonkeyPatch) -> None:
    pack, read = split._upload_arrays, split._read_upload

    def with_noise(upload: Upload) -> dict[str, Array]:
        return pack(upload) | {"x_k": Array(np.concatenate([upload.x_k, upload.x_k], axis=1))}

    def without(record: ArrayRecord) -> Upload:
        x_k = record["x_k"].numpy()
        return read(ArrayRecord({**record, "x_k": Array(x_k[:, : x_k.shape[1] // 2])}))

    patch.setattr(split, "_upload_arrays", with_noise)
    patch.setattr(split, "_read_upload", without)


def _lax(patch: pytest.MonkeyPatch, record: str) -> None:
    """A server that takes the record out before it looks."""
    accept = CollaFuse._accept_training

    def lax(self: CollaFuse, number: int, content: RecordDict) -> None:
        kept = {name: values for name, values in content.items() if name != record}
        numbers = {key: value for key, value in content.metric_records["numbers"].items() if key != "noise"}
        accept(self, number, RecordDict({**kept, "numbers": MetricRecord(numbers)}))

    patch.setattr(CollaFuse, "_accept_training", lax)


@pytest.mark.parametrize(
    ("mutate", "told"),
    [
        (_noise_in_the_upload, r"train up upload holds \['noise'\]"),
        (_noise_beside_the_upload, r"train up holds \['noise'\]"),
        (_noise_among_the_numbers, r"train up numbers holds \['noise'\]"),
        (_noise_as_a_second_channel, r"x_k has rows of shape \(2, 8, 8\)"),
    ],
)
def test_a_wire_that_carries_noise_fails_the_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutate: Callable[[pytest.MonkeyPatch], None], told: str
) -> None:
    mutate(monkeypatch)
    config, tap = crossed(tmp_path, "collafuse")
    with pytest.raises(AssertionError, match=told):
        guard(config, tap.crossed)


def test_weights_fail_the_guard_where_the_strategy_sends_none(tmp_path: Path) -> None:
    _, tap = crossed(tmp_path, "hybrid")
    with pytest.raises(AssertionError, match=r"train up holds \['averaged', 'weights'\]"):
        guard(small(tmp_path), [message for message in tap.crossed if message[1] == "up"])
