"""All that any strategy's messages may hold, field by field, and the guard that holds real messages against it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.config.config import Config
from collafuse_flwr.config.sections import FEDERATED, SPLIT
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.wire.collafuse import ClientInfo, EvaluateReply, TrainMetrics

Way = Literal["down", "up"]
#: A message's records, each with the fields that it may have; WEIGHTS stands for those of a network's state dict.
Allowed = dict[str, frozenset[str]]
ANY_WEIGHT = "(weights)"
WEIGHTS = frozenset({ANY_WEIGHT})


def _numbers(kind: type[Any]) -> Allowed:
    return {"numbers": frozenset(spec.name for spec in fields(kind))}


_ROUND = frozenset({"round"})
_SHARED: dict[tuple[str, Way], Allowed] = {
    ("query", "down"): {},
    ("query", "up"): _numbers(ClientInfo),
    ("evaluate", "up"): _numbers(EvaluateReply),
}
_HAND_OVER: Allowed = {"request": _ROUND, "hand-over": frozenset({"x_k", "labels"})}
_UPLOAD: Allowed = {"upload": frozenset({"x_k", "scale", "labels"})}
_SPLIT_REQUEST = frozenset({"round", "num-rounds", "want-upload"})
_WEIGHTS_REQUEST = frozenset({"round", "num-rounds", "part", "want-averaged"})

COLLAFUSE: dict[tuple[str, Way], Allowed] = _SHARED | {
    ("train", "down"): {"request": _SPLIT_REQUEST, "backbone": WEIGHTS},
    ("train", "up"): _numbers(TrainMetrics) | _UPLOAD,
    ("evaluate", "down"): _HAND_OVER,
}
AVERAGED: dict[tuple[str, Way], Allowed] = _SHARED | {
    ("train", "down"): {"request": _WEIGHTS_REQUEST, "weights": WEIGHTS},
    ("train", "up"): _numbers(TrainMetrics) | {"weights": WEIGHTS, "averaged": WEIGHTS},
    ("evaluate", "down"): _HAND_OVER | {"averaged": WEIGHTS},
}
HYBRID: dict[tuple[str, Way], Allowed] = _SHARED | {
    ("train", "down"): {"request": _SPLIT_REQUEST | _WEIGHTS_REQUEST, "backbone": WEIGHTS, "weights": WEIGHTS},
    ("train", "up"): COLLAFUSE["train", "up"] | AVERAGED["train", "up"],
    ("evaluate", "down"): AVERAGED["evaluate", "down"],
}
#: The messages of every strategy.
MESSAGES = (
    dict.fromkeys((*SPLIT, "local", "centralised"), COLLAFUSE) | dict.fromkeys(FEDERATED, AVERAGED) | {"hybrid": HYBRID}
)


class Tap:
    """A ClientApp that keeps all messages that cross, in both directions."""

    def __init__(self) -> None:
        self.crossed: list[tuple[str, Way, RecordDict]] = []
        self.app = ClientApp()
        for register in (self.app.query("hello"), self.app.train(), self.app.evaluate()):
            register(self._call)

    def _call(self, message: Message, context: Context) -> Message:
        kind = message.metadata.message_type.partition(".")[0]
        self.crossed.append((kind, "down", message.content))
        reply = client_app(message, context)
        self.crossed.append((kind, "up", reply.content))
        return reply


def guard(config: Config, crossed: list[tuple[str, Way, RecordDict]]) -> set[tuple[str, Way, str, str]]:
    """Hold messages against the list of a strategy; the fields that were seen (those of weights count as one).

    Raises:
        AssertionError: a message holds a record, a field or a shape that is not listed.
    """
    seen: set[tuple[str, Way, str, str]] = set()
    setup = DiffusionSetup.of(config)
    networks = [setup.backbone(1, 8, 10).state_dict(), setup.denoiser(0, 1, 8, 10).state_dict()]
    shapes = {(name, tuple(value.shape)) for network in networks for name, value in network.items()}
    for kind, way, content in crossed:
        allowed = MESSAGES[config.run.strategy][kind, way]
        assert set(content) <= set(allowed), f"{kind} {way} holds {sorted(set(content) - set(allowed))}"
        for name, record in content.items():
            if allowed[name] == WEIGHTS:
                arrays = content.array_records[name]
                assert {(key, tuple(array.shape)) for key, array in arrays.items()} <= shapes, f"{kind} {way} {name}"
                seen.add((kind, way, name, ANY_WEIGHT))
                continue
            extra = set(record) - allowed[name]
            assert not extra, f"{kind} {way} {name} holds {sorted(extra)}"
            seen |= {(kind, way, name, key) for key in record}
            if name in content.array_records:
                _check_images({key: array.numpy() for key, array in content.array_records[name].items()})
            else:
                # Neither a list of numbers nor bytes, which could carry an image.
                assert all(isinstance(value, (int, float, str)) for value in record.values()), f"{kind} {way} {name}"
    return seen


def _check_images(arrays: dict[str, NDArray[Any]]) -> None:
    """One image a row, one class a row, and one scale: no room for a second image."""
    row = arrays["x_k"].shape[1:]
    assert row == (1, 8, 8), f"x_k has rows of shape {row}"
    assert "scale" not in arrays or arrays["scale"].shape == (1,)
    if "labels" in arrays:
        assert arrays["labels"].shape == (len(arrays["x_k"]),)
        assert arrays["labels"].dtype == np.int64
