"""All that any strategy's messages may hold, field by field, and the guard that holds real messages against it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Literal

import numpy as np
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.config.config import Config
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.images import normalize
from collafuse_flwr.gan.fedgan import UnsplitGan
from collafuse_flwr.gan.mdgan import Discriminator, Generator
from collafuse_flwr.gan.networks import NETS
from collafuse_flwr.gan.split_gan.block_moments import moments_template
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.setup.gan import build_gan_architecture, build_optim_config
from collafuse_flwr.wire.common import ClientInfo, EvaluateReply, TrainMetrics
from collafuse_flwr.wire.generation import Generated, ImagesWanted
from collafuse_flwr.wire.split_gan import GanTrainMetrics
from tests.strategy_kinds import FEDERATED, GANS, SPLIT

Way = Literal["down", "up"]
#: A message's records, each with the fields that it may have; WEIGHTS stands for those of a network's state dict.
Allowed = dict[str, frozenset[str]]
Crossed = list[tuple[str, Way, RecordDict]]
ANY_WEIGHT = "(weights)"
WEIGHTS = frozenset({ANY_WEIGHT})
#: Words in messages are names of phases, parts and cuts.
LONGEST_WORD = 24


def _metrics(kind: type[Any]) -> Allowed:
    return {"metrics": frozenset(spec.name for spec in fields(kind))}


def _config(*names: str) -> Allowed:
    return {"config": frozenset(names)}


_SHARED: dict[tuple[str, Way], Allowed] = {
    ("query.client_info", "down"): {},
    ("query.client_info", "up"): _metrics(ClientInfo),
    ("evaluate", "up"): _metrics(EvaluateReply),
}
_HANDOFF: Allowed = _config("round", "cut_step") | {"arrays": frozenset({"x_k", "labels"})}
_UPLOAD: Allowed = {"upload": frozenset({"x_k", "scale", "labels"})}
_SPLIT_REQUEST = ("round", "num_rounds", "want_upload", "held_cut")
_WEIGHTS_REQUEST = ("round", "num_rounds", "part", "want_averaged")

COLLAFUSE: dict[tuple[str, Way], Allowed] = _SHARED | {
    ("train", "down"): _config(*_SPLIT_REQUEST) | {"backbone": WEIGHTS},
    ("train", "up"): _metrics(TrainMetrics) | _UPLOAD | {"recut": frozenset({"cut"})},
    ("evaluate", "down"): _HANDOFF | {"backbone": WEIGHTS},
}
AVERAGED: dict[tuple[str, Way], Allowed] = _SHARED | {
    ("train", "down"): _config(*_WEIGHTS_REQUEST) | {"weights": WEIGHTS},
    ("train", "up"): _metrics(TrainMetrics) | {"weights": WEIGHTS, "averaged": WEIGHTS},
    ("evaluate", "down"): _HANDOFF | {"averaged": WEIGHTS},
}
HYBRID: dict[tuple[str, Way], Allowed] = _SHARED | {
    ("train", "down"): _config(*_SPLIT_REQUEST, *_WEIGHTS_REQUEST) | {"backbone": WEIGHTS, "weights": WEIGHTS},
    ("train", "up"): COLLAFUSE["train", "up"] | AVERAGED["train", "up"],
    ("evaluate", "down"): AVERAGED["evaluate", "down"] | COLLAFUSE["evaluate", "down"],
}
_GAN_ROUND: Allowed = _metrics(GanTrainMetrics) | {"weights": WEIGHTS}
_GAN_WORK: Allowed = _config("round", "count") | {"weights": WEIGHTS}
_GRADIENTS_DOWN = frozenset({"grad_gh", "grad_dh", "grad_dh_fake", "grad_dh_real"})
_GRADIENTS_UP = frozenset({"grad_gt", "grad_dt", "grad_dt_fake", "grad_dt_real"})
HUSCF_GAN: dict[tuple[str, Way], Allowed] = _SHARED | {
    ("train.split", "down"): _config("round", "step", "phase", "cuts")
    | {"activations": frozenset({"gt", "dt", "dt_fake", "dt_real"}) | _GRADIENTS_DOWN, "weights": WEIGHTS},
    ("train.split", "up"): {"activations": frozenset({"gh", "dh", "dh_fake", "dh_real"}) | _GRADIENTS_UP},
    ("train", "down"): _config("round", "cuts", "next_cuts") | {"activations": frozenset({"grad_gh"})},
    ("train", "up"): _GAN_ROUND,
    ("evaluate.latent", "down"): _config("round", "count", "cuts") | {"weights": WEIGHTS},
    ("evaluate.latent", "up"): {"activations": frozenset({"gh"})},
    ("evaluate", "down"): _config("round", "cuts") | {"activations": frozenset({"gt"})},
}
FEDGAN: dict[tuple[str, Way], Allowed] = _SHARED | {
    ("train", "down"): _GAN_WORK,
    ("train", "up"): _GAN_ROUND,
    ("evaluate", "down"): _GAN_WORK,
}
MDGAN: dict[tuple[str, Way], Allowed] = _SHARED | {
    ("train.feedback", "down"): _config("round", "step")
    | {"fake": frozenset({"x_g", "x_d"}), "labels": frozenset({"x_g", "x_d"}), "weights": WEIGHTS},
    ("train.feedback", "up"): {"activations": frozenset({"feedback"})},
    ("train", "down"): _config("round", "count"),
    ("train", "up"): _GAN_ROUND,
    ("evaluate", "down"): _GAN_WORK,
}
#: All learn from the batch that they judge.
FSL_GAN: dict[tuple[str, Way], Allowed] = MDGAN | {
    ("train.feedback", "down"): _config("round", "step")
    | {"fake": frozenset({"x_g"}), "labels": frozenset({"x_g"}), "weights": WEIGHTS},
}
PFL_GAN: dict[tuple[str, Way], Allowed] = _SHARED | {
    ("train", "down"): _GAN_WORK
    | _config("round", "count", "want_generator")
    | {"arrays": frozenset({"synthetic", "labels"})},
    ("train", "up"): _GAN_ROUND,
    ("evaluate", "down"): _config("round", "count"),
}
#: Those of a run that generates, whichever strategy has trained.
GENERATE: dict[tuple[str, Way], Allowed] = {
    ("query.client_info", "down"): {},
    ("query.client_info", "up"): _metrics(ClientInfo),
    ("query.images_wanted", "down"): {},
    ("query.images_wanted", "up"): _metrics(ImagesWanted),
    ("query.generate", "down"): _HANDOFF | {"backbone": WEIGHTS} | _config("round", "label", "guidance", "seed"),
    ("query.generate", "up"): _metrics(Generated),
}
#: The messages of every strategy.
MESSAGES = (
    dict.fromkeys((*SPLIT, "local", "centralized"), COLLAFUSE)
    | dict.fromkeys(FEDERATED, AVERAGED)
    | {
        "hybrid": HYBRID,
        "huscf_gan": HUSCF_GAN,
        "fedgan": FEDGAN,
        "mdgan": MDGAN,
        "fsl_gan": FSL_GAN,
        "pfl_gan": PFL_GAN,
        "hfl_gan": FEDGAN,
    }
)


class Tap:
    """A ClientApp that keeps all messages that cross, in both directions."""

    def __init__(self) -> None:
        self.crossed: Crossed = []
        self.app = ClientApp()
        for register in (
            self.app.query("client_info"),
            self.app.query("images_wanted"),
            self.app.query("generate"),
            self.app.train(),
            self.app.train("split"),
            self.app.train("feedback"),
            self.app.evaluate("latent"),
            self.app.evaluate(),
        ):
            register(self._call)

    def _call(self, message: Message, context: Context) -> Message:
        kind = message.metadata.message_type
        self.crossed.append((kind, "down", message.content))
        reply = client_app(message, context)
        self.crossed.append((kind, "up", reply.content))
        return reply


def guard(config: Config, crossed: Crossed) -> set[tuple[str, Way, str, str]]:
    """Hold messages against the list of a strategy; the fields that were seen (those of weights count as one).

    Raises:
        AssertionError: a message holds a record, a field or a shape that is not listed.
    """
    seen: set[tuple[str, Way, str, str]] = set()
    shapes = {(name, tuple(value.shape)) for name, value in _weights(config)}
    for kind, way, content in crossed:
        allowed = (GENERATE if config.run.task == "generate" else MESSAGES[config.run.strategy])[kind, way]
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
                check = _check_batches if config.run.strategy in GANS else _check_images
                check(config, {key: array.numpy() for key, array in content.array_records[name].items()})
            else:
                # Neither a list of numbers nor bytes, which could carry an image, nor a long word.
                assert all(isinstance(value, (int, float, str)) for value in record.values()), f"{kind} {way} {name}"
                assert all(len(value) <= LONGEST_WORD for value in record.values() if isinstance(value, str))
    return seen


def _weights(config: Config) -> Iterable[tuple[str, Tensor]]:
    """The weights of all networks of a strategy."""
    if config.run.strategy not in GANS:
        setup = diffusion_setup(config)
        networks = [setup.backbone(1, 8, 10).state_dict(), setup.denoiser(0, 1, 8, 10).state_dict()]
    else:
        given = build_gan_architecture(config, 1, 8, 10), ("guard",), build_optim_config(config)
        whole = UnsplitGan(given[0], config.run.seed, given[2])
        networks = [whole.blocks(), Generator(*given).weights(), Discriminator(*given).weights()]
    every = [item for network in networks for item in network.items()]
    if config.split_gan.replan_rounds:
        # What blocks need that change hands.
        blocks = [(net, index) for net in NETS for index in range(len(getattr(given[0], net)))]
        every += moments_template(given[0], blocks, averaged=bool(config.split_gan.ema)).items()
    return every


def _check_images(config: Config, arrays: dict[str, NDArray[Any]]) -> None:
    """One image a row, one class a row, and one scale: no room for a second image."""
    row = arrays["x_k"].shape[1:]
    assert row == (1, 8, 8), f"x_k has rows of shape {row}"
    assert "scale" not in arrays or arrays["scale"].shape == (1,)
    if "labels" in arrays:
        assert arrays["labels"].shape == (len(arrays["x_k"]),)
        assert arrays["labels"].dtype == np.int64


def _check_batches(config: Config, arrays: dict[str, NDArray[Any]]) -> None:
    """Of a GAN: floats of a batch or of samples, synthetic images, or labels of fake images."""
    most = max(config.gan.batch_size, config.evaluation.num_samples)
    if "synthetic" in arrays:
        assert arrays["synthetic"].dtype == np.uint8
        most, arrays = config.pfl_gan.num_synthetic, {"labels": arrays["labels"]}
    for name, array in arrays.items():
        assert len(array) <= most, f"{name} is {array.shape}"
        assert array.dtype == np.float32 or (array.dtype == np.int64 and array.ndim == 1), f"{name} is {array.dtype}"


def guard_pixels(config: Config, crossed: Crossed) -> int:
    """See that no message holds a training image or a function of its pixels; the windows that were looked at.

    Raises:
        AssertionError: one does: its bytes, or values that follow from those of the pixels one by one, turned or not.
    """
    data = federation_data(config.data, config.run.num_supernodes, config.run.seed)
    images = torch.cat([data.client(client).train.images for client in range(config.run.num_supernodes)]).unique(dim=0)
    turned = torch.cat([side.rot90(turns, (2, 3)) for side in (images, images.flip(3)) for turns in range(4)])
    groups, bytes_ = [_Groups(image.flatten()) for image in turned], [x.numpy().tobytes() for x in images]
    bytes_ += [x.numpy().tobytes() for x in normalize(images)]
    looked = 0
    for kind, way, content in crossed:
        for name, record in content.array_records.items():
            for key, array in record.items():
                assert not any(own in array.data for own in bytes_), f"{kind} {way} {name}.{key} holds an image"
                windows = _windows(array.numpy(), images[0].numel())
                looked += len(windows)
                is_function = any(bool(own.determine(windows).any()) for own in groups) if len(windows) else False
                assert not is_function, f"{kind} {way} {name}.{key} is a function of an image"
    return looked


def _windows(array: NDArray[Any], pixels: int) -> Tensor:
    """All runs of so many values, from the beginning of each row on, that differ enough to be a picture."""
    flat = torch.from_numpy(np.array(array, np.float64)).reshape(len(array) if array.ndim else 1, -1)
    flat = flat if flat.shape[1] >= pixels else flat.reshape(1, -1)
    whole = flat[:, : flat.shape[1] // pixels * pixels].reshape(-1, pixels)
    return whole[[len(row.unique()) >= 4 for row in whole]] if len(whole) else whole


class _Groups:
    """The places of an image that have the same value as others."""

    def __init__(self, image: Tensor) -> None:
        _, inverse, counts = image.unique(return_inverse=True, return_counts=True)
        self.kept = counts[inverse] > 1
        members = torch.nn.functional.one_hot(inverse[self.kept]).double()
        self.members = members[:, members.sum(dim=0) > 0]

    def determine(self, windows: Tensor) -> Tensor:
        """Whether the values of each window, (n, pixels), are a function of the image's: no variance within groups."""
        x = windows[:, self.kept]
        means = (x @ self.members) / self.members.sum(dim=0) @ self.members.T
        return ((x - means).square().sum(dim=1) < 1e-3 * x.var(dim=1) * x.shape[1]) & (x.var(dim=1) > 0)
