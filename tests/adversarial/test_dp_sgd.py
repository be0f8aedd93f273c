"""An operator who scales gradients out of float32's range, repeats steps, and names networks that remember."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from torch import Tensor, nn

from collafuse_flwr.client.policy import BEYOND
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.diffusion import dp_sgd as module
from collafuse_flwr.diffusion.dp_sgd import clipped_gradient_sum
from collafuse_flwr.diffusion.train import TrainState
from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.wire.codec import ClientError
from collafuse_flwr.wire.collafuse import SampleHandoff
from collafuse_flwr.wire.common import EvaluateReply
from collafuse_flwr.wire.fedavg import WeightsReply, WeightsRequest
from tests.adversarial.node import Node
from tests.unit.diffusion.test_dp_sgd import SECRET, directions, made, some_images, trained

DP_SGD = 'weights = "dp_sgd"\nmax_epsilon = 1000\nmin_batch_size = 1\n'
#: One step of all sixteen images.
ONE_STEP: dict[str, Any] = {"train__local_epochs": 1.0, "client__batch_size": 16}
PRIVATE: dict[str, Any] = ONE_STEP | {"strategy": "fedavg", "dp__noise_multiplier": 2.0}


def shared(node: Node, round_: int = 1, run: int = 1, weights: dict[str, Tensor] | None = None, **changes: Any) -> Any:
    """The answer to a round of federated averaging."""
    request = WeightsRequest(round=round_, num_rounds=9, weights=weights or {}, part="all", want_averaged=False)
    return node.ask("train", request, WeightsReply, run, **(PRIVATE | changes))


def entries(node: Node, kind: str) -> list[dict[str, Any]]:
    lines = (node.state / "ledger.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


# Gradients out of range.


def clipped_sum(gradients: NDArray[np.float32], max_grad_norm: float) -> Tensor:
    """Of a network whose gradients are the images."""
    state = TrainState(nn.Linear(gradients.shape[1], 1, bias=False), 0.9)
    state.parameters[0].data.zero_()

    def loss(x: Tensor) -> Tensor:
        return torch.sum(state.network(x))

    return clipped_gradient_sum(state, loss, [torch.from_numpy(gradients)], max_grad_norm)[0][0]


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(np.float32, (1, 5), elements=st.floats(-1, 1, width=32)),
    st.integers(-149, 127),
    st.sampled_from([1e-30, 1e-6, 0.3, 1e6]),
)
def test_no_gradient_of_any_magnitude_is_longer_than_c(direction: Any, exponent: int, norm: float) -> None:
    """At a loss of 1e-25 the squares in a norm were zero, the norm with them, and nothing was clipped."""
    gradient = np.ldexp(direction, exponent).astype(np.float32)
    ours = clipped_sum(gradient, norm).double()
    length = float(np.linalg.norm(gradient.astype(np.float64)))
    assert ours.isfinite().all()
    assert float(ours.norm()) <= norm * (1 + 1e-9)
    expected = torch.from_numpy(gradient.astype(np.float64)) * min(1, norm / length if length else 1)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("magnitude", [1e-45, 1.0, 3e38])
def test_a_gradient_that_is_not_finite_adds_exactly_nothing(value: float, magnitude: float) -> None:
    """0 times infinity is no number: one such image, which an operator can bring about, spoilt the sum."""
    others = np.array([[magnitude, -magnitude], [0, 0]], np.float32)
    spoilt = np.concatenate([others, np.array([[value, 1]], np.float32)])
    ours = clipped_sum(spoilt, 1.0)
    assert ours.isfinite().all()
    assert torch.equal(ours, clipped_sum(others, 1.0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dp.max_grad_norm", 1e-30),
        ("dp.max_grad_norm", 1e30),
        ("dp.noise_multiplier", 1e-20),
        ("dp.noise_multiplier", 1e20),
        ("train.learning_rate", 1e-25),
        ("train.learning_rate", 1e25),
        ("train.min_snr_gamma", 1e-25),
        ("train.min_snr_gamma", 1e25),
        ("fedprox.proximal_mu", 1e30),
    ],
)
def test_settings_that_float32_cannot_hold_are_refused(name: str, value: float) -> None:
    others: dict[str, Any] = {
        "train.min_snr_gamma": {"train.loss_weighting": "min_snr"},
        "fedprox.proximal_mu": {"strategy": "fedprox"},
    }.get(name, {})
    with pytest.raises(SettingError, match=f"^`{name}` = .* is not allowed: .*(>=|<=)"):
        Config.from_flat({name: value} | others)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_weights_that_are_no_numbers_are_refused_before_anything_is_computed(tmp_path: Path, value: float) -> None:
    node = Node(tmp_path, DP_SGD)
    spoilt = {"conv_out.bias": torch.full((1,), value)}
    reply = shared(node, weights=spoilt)
    assert isinstance(reply, ClientError)
    assert reply.reason.startswith(f"{BEYOND}: `weights.conv_out.bias` must be finite")
    assert not list(node.state.rglob("state-*"))
    assert not entries(node, "dp_sgd")


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    """Without a policy, too, which holds them to more."""
    node = Node(tmp_path)
    node.node = {"partition-id": 0, "num-partitions": 1}
    handoff = SampleHandoff(round=1, x_k=torch.full((2, 1, 8, 8), math.nan))
    settings: dict[str, Any] = {"dataset": "digits", "data__max_images": 40, "cut_ratio": 0.5}
    settings["output"] = str(tmp_path / "run")
    reply = node.ask("evaluate", handoff, EvaluateReply, **settings)
    assert isinstance(reply, ClientError)
    assert "`arrays.x_k` must be finite" in reply.reason


# The same step again.


def test_a_repeated_step_has_other_noise_and_counts_again(tmp_path: Path) -> None:
    """The same step at another precision had the same noise: their difference was one of gradients, without any."""
    node = Node(tmp_path, DP_SGD)
    first, again = shared(node, run=1), shared(node, run=2)
    assert first.metrics.steps == again.metrics.steps == 1
    # Adam's first step has one length, so that single values may well agree.
    assert any(not torch.equal(value, again.weights[name]) for name, value in first.weights.items())
    assert Ledger(node.state / "ledger.jsonl").exposure().dp_steps == 2


def test_steps_are_on_the_ledger_before_they_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node, seen = Node(tmp_path, DP_SGD), []

    def dies(*_: Any, **__: Any) -> None:
        seen.extend(entries(node, "dp_sgd"))
        raise MemoryError

    monkeypatch.setattr("collafuse_flwr.client.diffusion_base.train_dp_sgd", dies)
    assert isinstance(shared(node), ClientError)
    assert [(entry["noise_multiplier"], entry["steps"]) for entry in seen] == [(2.0, 1)]


@pytest.mark.parametrize("secret", [SECRET, None])
def test_sums_that_differ_in_their_last_bits_have_other_noise(
    monkeypatch: pytest.MonkeyPatch, secret: bytes | None
) -> None:
    """As they do at another precision, on another device, and with another number of threads."""
    original, noisy = module.clipped_gradient_sum, []
    for difference in (0.0, 1e-12):

        def differs(*given: Any, difference: float = difference) -> Any:
            sums, losses = original(*given)
            return [own + difference for own in sums], losses

        monkeypatch.setattr(module, "clipped_gradient_sum", differs)
        state = made()
        seen = directions(monkeypatch, state)
        trained(state, 1, norm=1e-6, secret=secret)
        noisy.append(seen[0] * 4e6)
    assert float((noisy[0] - noisy[1]).abs().mean()) > 0.5


def test_low_bits_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise that is added in float32 leaves low bits that only some sums can have led to."""
    state = made()
    seen = directions(monkeypatch, state)
    trained(state, 3, some_images(), norm=0.5, sigma=1.0)
    steps = torch.cat(seen).double() * 4 / (0.5 * 2**-12)
    assert torch.equal(steps, steps.round())


# Networks that remember.


class Remembers(nn.Module):
    """Keeps the mean of what it is called on, in place or in the place of what it kept."""

    kept: Tensor

    def __init__(self, in_place: bool, parameter: bool) -> None:
        super().__init__()
        self.in_place, self.layer = in_place, nn.Conv2d(1, 1, 1)
        if parameter:
            self.kept = nn.Parameter(torch.zeros(()), requires_grad=False)
        else:
            self.register_buffer("kept", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean().detach()
        if self.in_place:
            self.kept.copy_(mean)
        else:
            self.kept = nn.Parameter(mean, requires_grad=False) if isinstance(self.kept, nn.Parameter) else mean
        result: Tensor = self.layer(x)
        return result


@pytest.mark.parametrize(("in_place", "parameter"), [(True, False), (False, False), (True, True)])
def test_a_network_that_remembers_images_is_refused(in_place: bool, parameter: bool) -> None:
    """Not only batch normalisation does: any buffer may, and is sent with the weights."""
    network = Remembers(in_place, parameter)
    state = TrainState(network, 0.9)
    with pytest.raises(SettingError, match=r"`dp.noise_multiplier` = 1\.0 .*: 0 for networks with .*`kept`"):
        trained(state, 1)
    assert not network.kept.any()


def test_whatever_a_call_moves_does_not_outlast_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if only some calls move it."""
    network = Remembers(False, False)
    state = TrainState(network, 0.9)
    images: Sequence[Tensor] = [torch.ones(3, 1, 2, 2)]
    clipped_gradient_sum(state, lambda x: network(x).square().mean(), images, 1.0)
    assert not network.kept.any()
