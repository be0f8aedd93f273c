"""An operator who repeats rounds to have an update's noise averaged, or wants what is no clipped update."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collafuse_flwr.client.policy import BEYOND, Policy
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.privacy.accounting import epsilon
from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.wire.codec import ClientError
from collafuse_flwr.wire.fedavg import WeightsReply, WeightsRequest
from tests.adversarial.node import Node
from tests.adversarial.test_dp_sgd import ONE_STEP, entries
from tests.adversarial.test_policy import limit

NOISED: dict[str, Any] = ONE_STEP | {
    "strategy": "fedavg",
    "averaging__clip_norm": 0.5,
    "averaging__noise": "client",
    "averaging__noise_multiplier": 2.0,
}
OWNER = 'weights = "client_dp"\nmax_epsilon = 1000\nmin_batch_size = 1\n'


def start(node: Node) -> dict[str, Tensor]:
    config = Config.from_flat(node.run_config(strategy="fedavg"))
    return diffusion_setup(config).denoiser(0, 1, 8, 3).state_dict()


def update(node: Node, round_: int = 1, run: int = 1, **changes: Any) -> Any:
    """The answer to a round; `weights`, `part` and `want_averaged` are the request's, others settings."""
    requested = {name: changes.pop(name) for name in ("weights", "part", "want_averaged") if name in changes}
    given: dict[str, Any] = {"weights": start(node), "part": "all", "want_averaged": False} | requested
    request = WeightsRequest(round=round_, num_rounds=9, **given)
    return node.ask("train", request, WeightsReply, run, **(NOISED | changes))


def moved_by(node: Node, reply: WeightsReply) -> Tensor:
    received = start(node)
    return torch.cat([(value.double() - received[name].double()).flatten() for name, value in reply.weights.items()])


def test_a_round_that_is_wanted_again_has_no_second_noise(tmp_path: Path) -> None:
    node = Node(tmp_path, OWNER)
    assert update(node).weights
    assert isinstance(update(node), ClientError)
    assert len(entries(node, "weights")) == 1


def test_another_run_has_other_noise_and_counts(tmp_path: Path) -> None:
    node = Node(tmp_path, OWNER)
    first, again = moved_by(node, update(node, run=1)), moved_by(node, update(node, run=2))
    assert float((first - again).std()) == pytest.approx(math.sqrt(2), rel=0.05), "two draws of deviation 2 C = 1"
    exposure = Ledger(node.state / "ledger.jsonl").exposure()
    assert exposure.client_epsilon(1e-5) == pytest.approx(epsilon(2 / 2.0 * math.sqrt(2), 1e-5))
    assert exposure.epsilon(1e-5) == exposure.client_epsilon(1e-5)


def test_the_ledger_has_clipping_and_noise(tmp_path: Path) -> None:
    node = Node(tmp_path, 'weights = "always"\nmin_batch_size = 1\n')
    assert update(node, 1).weights
    assert update(node, 2, averaging__noise="none").weights
    noised, clipped = entries(node, "weights")
    assert (noised["clip_norm"], noised["noise_multiplier"], noised["unbounded"]) == (0.5, 2.0, False)
    assert (clipped["clip_norm"], clipped.get("noise_multiplier"), clipped["unbounded"]) == (0.5, None, True)
    # Whatever is noised later, nothing bounds what these have told of the client.
    assert Ledger(node.state / "ledger.jsonl").exposure().client_epsilon(1e-5) == math.inf


def test_weights_of_dp_sgd_alone_have_no_bound_for_a_whole_client(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.add("weights", message="train", values=10, dp_sgd=True, unbounded=False)
    assert ledger.exposure().epsilon(1e-5) == 0
    assert ledger.exposure().client_epsilon(1e-5) == math.inf


def test_an_update_is_clipped_whatever_it_is_trained_on(tmp_path: Path) -> None:
    node = Node(tmp_path, 'weights = "always"\nmin_batch_size = 1\n')
    reply = update(node, averaging__noise="none", averaging__clip_norm=1e-3, train__learning_rate=1.0)
    assert float(moved_by(node, reply).norm()) == pytest.approx(1e-3, rel=1e-2)


def test_weights_that_were_not_sent_are_no_start_of_an_update(tmp_path: Path) -> None:
    """What a client has of its own is of its images, and would leave beside the update of it."""
    node = Node(tmp_path, OWNER)
    missing = start(node)
    missing.pop("conv_out.bias")
    for number, weights in enumerate(({}, missing), 1):
        reply = update(node, number, weights=weights)
        assert isinstance(reply, ClientError)
        assert reply.reason.startswith(f"{BEYOND}: `weights` lack ")
    assert update(node, 3, want_averaged=True).reason.startswith(f"{BEYOND}: `want_averaged` = True")
    assert not entries(node, "weights")


def test_an_owner_lets_noised_weights_leave_within_a_budget(tmp_path: Path) -> None:
    node = Node(tmp_path, OWNER.replace("1000", "8"))
    assert limit(update(node, 1, averaging__noise="none")) == "weights"
    assert limit(update(node, 2, averaging__noise="server")) == "weights", "which the client has no say in"
    assert limit(update(node, 3, averaging__noise_multiplier=0.1)) == "max_epsilon"
    assert update(node, 4).weights
    assert update(node, 5).weights
    assert limit(update(node, 6, averaging__noise_multiplier=0.5)) == "max_epsilon", "of all that has left"


def test_nobody_else_s_updates_leave(tmp_path: Path) -> None:
    assert limit(update(Node(tmp_path))) == "weights"


def test_a_policy_of_noised_weights_has_a_budget(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text('weights = "client_dp"\n')
    with pytest.raises(SettingError, match=r"`policy\.max_epsilon` = 0"):
        Policy.load(tmp_path / "policy.toml")
