"""Every message of every strategy holds what is listed and nothing else, and the guard sees a wire that holds more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from collafuse_flwr.client import base as client
from collafuse_flwr.client.fedgan import FedGanClient
from collafuse_flwr.client.gan_base import GanClient
from collafuse_flwr.client.huscf_gan import HuscfGanClient
from collafuse_flwr.client.mdgan import MdGanClient
from collafuse_flwr.config.config import Config
from collafuse_flwr.config.strategies import ENDS
from collafuse_flwr.data.images import normalize
from collafuse_flwr.wire.codec import encode
from collafuse_flwr.wire.collafuse import TrainReply
from collafuse_flwr.wire.gan import DiscriminatorFeedbackRequest, GanWorkRequest
from collafuse_flwr.wire.split_gan import ActivationsReply, EndRoundReply, SplitRequest
from strategies.collafuse import CollaFuse
from tests.message_guard import ANY_WEIGHT, MESSAGES, WEIGHTS, Tap, guard, guard_pixels
from tests.small_runs import connect, run_strategy, small
from tests.strategy_kinds import FEDERATED, GANS, SPLIT

QUICK = {
    "num_supernodes": 2,
    "num_rounds": 1,
    "data.max_images": 60,
    "evaluation.num_samples": 4,
}
DENOISER = {"diffusion.timesteps": 10, "model": "nano"}
GAN = {"num_rounds": 2, "gan.width": 2, "gan.batch_size": 8}
OWN: dict[str, dict[str, Any]] = {
    "mdgan": {"mdgan.k": 2},
    # One slows down, so that cuts move.
    "huscf_gan": {
        "devices.profiles": ["0.5:5", "0.5:5"],
        "devices.server_gflops": 0.5,
        "devices.slowdowns": "1:8:1",
        "split_gan.replan_rounds": 1,
    },
}


def crossed(folder: Path, strategy: str) -> tuple[Config, Tap]:
    """All messages of a small run in which clients also start from the backbone."""
    begin = {"client.init_from": "backbone", "client.start_round": 1} if strategy not in FEDERATED else {}
    kind = GAN | OWN.get(strategy, {}) if strategy in GANS else DENOISER | begin
    config, tap = small(folder, **(QUICK | {"strategy": strategy} | kind)), Tap()
    run_strategy(config, connect(config, tap.app))
    return config, tap


def test_every_strategy_is_listed() -> None:
    assert MESSAGES.keys() == {*SPLIT, *ENDS, *FEDERATED, *GANS}


def test_no_field_is_listed_for_what_must_never_leave() -> None:
    """The noise, the seed or secret behind it, and the clean image, under whatever name they have in the code."""
    listed = [allowed for messages in MESSAGES.values() for allowed in messages.values()]
    fields = {key for allowed in listed for keys in allowed.values() for key in keys}
    assert fields.isdisjoint({"noise", "eps", "x_0", "x_t", "t", "image", "images", "seed", "secret", "x", "z"})
    assert not any(WEIGHTS in MESSAGES[name]["train", "up"].values() for name in ("collafuse", "pfdm", "clean_server"))
    for strategy in GANS:
        up = [allowed for (_, way), allowed in MESSAGES[strategy].items() if way == "up"]
        assert not any({"labels", "codes"} & {*allowed, *keys} for allowed in up for keys in allowed.values())


@pytest.mark.parametrize("strategy", sorted(MESSAGES.keys() - set(GANS)))
def test_a_run_sends_what_is_listed_and_no_more(tmp_path: Path, strategy: str) -> None:
    config, tap = crossed(tmp_path, strategy)
    seen = guard(config, tap.crossed)
    uploads = {key for kind, way, name, key in seen if (kind, way, name) == ("train", "up", "upload")}
    sends_images = strategy in {*SPLIT, "centralized"}
    assert uploads == ({"x_k", "scale", "labels"} if sends_images else set())
    assert ("train", "up", "weights", ANY_WEIGHT) not in seen or strategy in {*FEDERATED, "hybrid"}
    assert {kind for kind, *_ in seen} == {"query.client_info", "train", "evaluate"}


@pytest.mark.parametrize("strategy", GANS)
def test_a_run_of_a_gan_sends_all_that_is_listed_no_more_and_no_image(tmp_path: Path, strategy: str) -> None:
    config, tap = crossed(tmp_path, strategy)
    listed = MESSAGES[strategy].items()
    assert guard(config, tap.crossed) == {
        (kind, way, name, key) for (kind, way), records in listed for name, keys in records.items() for key in keys
    }
    assert guard_pixels(config, tap.crossed) > 100


def test_what_clients_of_collafuse_send_is_no_function_of_an_image(tmp_path: Path) -> None:
    config, tap = crossed(tmp_path, "collafuse")
    assert guard_pixels(config, tap.crossed) > 100


def test_the_guard_sees_images_where_they_are_sent(tmp_path: Path) -> None:
    """Centralised training has its images sent as they are."""
    config, tap = crossed(tmp_path, "centralized")
    with pytest.raises(AssertionError, match=r"train up upload.x_k is a function of an image"):
        guard_pixels(config, tap.crossed)


# Mutations: a wire that carries more, which both sides have agreed upon, is what the guard must see.


def _mutated(
    patch: pytest.MonkeyPatch, change: Callable[[RecordDict], None], undo: Callable[[RecordDict], object]
) -> None:
    """A client that changes its TrainReply, and a server that takes that back before it looks."""

    def send(message: object, dtype: str = "float32") -> RecordDict:
        content = encode(message, dtype)
        if isinstance(message, TrainReply) and message.upload is not None:
            change(content)
        return content

    collect = CollaFuse._collect_replies

    def lax(self: CollaFuse, replies: list[Message], kind: type[object], accept: Callable[..., None]) -> None:
        replies = list(replies)
        for reply in replies:
            if reply.has_content() and "upload" in reply.content:
                undo(reply.content)
        collect(self, replies, kind, accept)

    patch.setattr(client, "encode", send)
    patch.setattr(CollaFuse, "_collect_replies", lax)


def _arrays(content: RecordDict, **changed: Array | None) -> None:
    arrays = {**content.array_records["upload"], **changed}
    content["upload"] = ArrayRecord({name: array for name, array in arrays.items() if array is not None})


def _noise_in_the_upload(patch: pytest.MonkeyPatch) -> None:
    """The first paper's triple: x_t, its noise and (known to all) its t."""
    _mutated(patch, lambda content: _arrays(content, noise=Array(np.zeros(3))), lambda c: _arrays(c, noise=None))


def _noise_beside_the_upload(patch: pytest.MonkeyPatch) -> None:
    def add(content: RecordDict) -> None:
        content["noise"] = ArrayRecord({"x_k": Array(np.zeros(3))})

    _mutated(patch, add, lambda content: content.pop("noise"))


def _noise_among_the_metrics(patch: pytest.MonkeyPatch) -> None:
    def add(content: RecordDict) -> None:
        content["metrics"] = MetricRecord({**content.metric_records["metrics"], "noise": [0.5, -0.25]})

    _mutated(patch, add, lambda content: content.metric_records["metrics"].pop("noise"))


def _noise_as_a_second_channel(patch: pytest.MonkeyPatch) -> None:
    def widen(content: RecordDict) -> None:
        x_k = content.array_records["upload"]["x_k"].numpy()
        _arrays(content, x_k=Array(np.concatenate([x_k, x_k], axis=1)))

    def narrow(content: RecordDict) -> None:
        _arrays(content, x_k=Array(content.array_records["upload"]["x_k"].numpy()[:, :1]))

    _mutated(patch, widen, narrow)


@pytest.mark.parametrize(
    ("mutate", "violation"),
    [
        (_noise_in_the_upload, r"train up upload holds \['noise'\]"),
        (_noise_beside_the_upload, r"train up holds \['noise'\]"),
        (_noise_among_the_metrics, r"train up metrics holds \['noise'\]"),
        (_noise_as_a_second_channel, r"x_k has rows of shape \(2, 8, 8\)"),
    ],
)
def test_a_wire_that_carries_noise_fails_the_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutate: Callable[[pytest.MonkeyPatch], None], violation: str
) -> None:
    mutate(monkeypatch)
    config, tap = crossed(tmp_path, "collafuse")
    with pytest.raises(AssertionError, match=violation):
        guard(config, tap.crossed)


def test_weights_fail_the_guard_where_the_strategy_sends_none(tmp_path: Path) -> None:
    _, tap = crossed(tmp_path, "hybrid")
    with pytest.raises(AssertionError, match=r"train up holds \['averaged', 'weights'\]"):
        guard(small(tmp_path), [message for message in tap.crossed if message[1] == "up"])


# The same for GANs: what fits the schema may still be an image.


def _images(own: GanClient, count: int) -> Tensor:
    return normalize(own.data.train.images[:count])


def _images_for_gradients(patch: pytest.MonkeyPatch) -> None:
    """MD-GAN's gradient has the shape of images."""
    answer = MdGanClient.on_feedback

    def on_feedback(self: MdGanClient, request: DiscriminatorFeedbackRequest) -> ActivationsReply:
        like = answer(self, request).activations["feedback"]
        return ActivationsReply({"feedback": 0.03 * _images(self, len(like)).square() - 0.01})

    patch.setattr(MdGanClient, "on_feedback", on_feedback)


def _an_image_for_weights(patch: pytest.MonkeyPatch) -> None:
    train = FedGanClient.on_train

    def on_train(self: FedGanClient, request: GanWorkRequest) -> EndRoundReply:
        reply = train(self, request)
        large = next(x for name, x in reply.weights.items() if x.numel() >= 64 and name.endswith("weight"))
        large.view(-1)[:64] = _images(self, 1).flip(3).flatten() / 10
        return reply

    patch.setattr(FedGanClient, "on_train", on_train)


def _images_for_activations(patch: pytest.MonkeyPatch) -> None:
    answer = HuscfGanClient.on_split

    def on_split(self: HuscfGanClient, request: SplitRequest) -> ActivationsReply:
        sent = answer(self, request).activations
        if "dh_real" in sent:
            count = sent["dh_real"].numel() // 64
            sent["dh_real"] = _images(self, count).reshape(sent["dh_real"].shape)
        return ActivationsReply(sent)

    patch.setattr(HuscfGanClient, "on_split", on_split)


@pytest.mark.parametrize(
    ("strategy", "mutate", "what"),
    [
        ("mdgan", _images_for_gradients, "train.feedback up activations.feedback is a function of an image"),
        ("fedgan", _an_image_for_weights, r"train up weights.\S+ is a function of an image"),
        ("huscf_gan", _images_for_activations, "train.split up activations.dh_real holds an image"),
    ],
)
def test_a_gan_that_sends_images_as_something_else_fails_the_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, mutate: Callable[..., None], what: str
) -> None:
    mutate(monkeypatch)
    config, tap = crossed(tmp_path, strategy)
    guard(config, tap.crossed)
    with pytest.raises(AssertionError, match=what):
        guard_pixels(config, tap.crossed)


def test_a_gan_that_sends_labels_fails_the_guard(tmp_path: Path) -> None:
    config, tap = crossed(tmp_path, "mdgan")
    kind, way, content = next(message for message in tap.crossed if message[:2] == ("train.feedback", "up"))
    content["labels"] = ArrayRecord({"x_d": Array(np.arange(8))})
    with pytest.raises(AssertionError, match=r"train.feedback up holds \['labels'\]"):
        guard(config, [(kind, way, content)])
