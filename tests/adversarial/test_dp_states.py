"""An operator who has other states sent as DP-SGD's, or upload and training each within the budget."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from collafuse_flwr.client.policy import Policy
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.privacy.ledger import Ledger
from tests.adversarial.node import OPEN, Node
from tests.adversarial.test_dp_sgd import DP_SGD, ONE_STEP, entries, shared
from tests.adversarial.test_policy import limit

# States of other training.


def test_a_state_that_was_trained_otherwise_is_not_sent_as_one_of_dp_sgd(tmp_path: Path) -> None:
    """A run without noise trained it, and the next, with noise in its settings, sent it."""
    node = Node(tmp_path, DP_SGD)
    same: dict[str, Any] = {"output": str(tmp_path / "a")}
    assert node.train(1, run=1, strategy="local", **ONE_STEP, **same).metrics.steps == 1
    assert limit(shared(node, 2, run=2, **same)) == "weights"
    assert not entries(node, "weights")
    assert shared(node, 2, run=3).weights, "of a state of its own"
    assert [(entry["dp_sgd"], entry["unbounded"]) for entry in entries(node, "weights")] == [(True, False)]


def test_weights_are_bounded_only_if_all_of_their_steps_were(tmp_path: Path) -> None:
    """Where they may leave in any case, the ledger goes by the state and not by the settings."""
    node = Node(tmp_path, 'weights = "always"\nmin_batch_size = 1\n')
    same: dict[str, Any] = {"output": str(tmp_path / "a")}
    for round_, sigma in ((1, 2.0), (2, 0.0), (3, 2.0)):
        assert shared(node, round_, dp__noise_multiplier=sigma, **same).weights
    assert [entry["dp_sgd"] for entry in entries(node, "weights")] == [True, False, False]
    assert Ledger(node.state / "ledger.jsonl").exposure().epsilon(1e-5) == math.inf


def states(node: Node) -> list[str]:
    return sorted(str(path.relative_to(node.state)) for path in node.state.rglob("state-*"))


def test_a_new_run_leaves_the_states_of_others(tmp_path: Path) -> None:
    """Its first round deleted them, or went on from them, be it with another strategy."""
    node = Node(tmp_path, OPEN)
    assert node.train(1, run=1, strategy="local", **ONE_STEP).metrics.steps == 1
    before = states(node)
    assert node.train(1, run=2, cut_ratio=0.5, **ONE_STEP).metrics.steps == 0
    assert set(before) < set(states(node))
    assert node.train(2, run=1, strategy="local", **ONE_STEP).metrics.steps == 1
    assert len([name for name in states(node) if name.startswith("runs/1/")]) == 2


def test_a_run_that_is_resumed_under_another_id_finds_its_state(tmp_path: Path) -> None:
    node = Node(tmp_path, OPEN)
    same: dict[str, Any] = {"strategy": "local", "output": str(tmp_path / "a")} | ONE_STEP
    for round_, run in ((1, 1), (2, 2)):
        assert node.train(round_, run=run, **same).metrics.steps == 1
    assert len({Path(name).parent for name in states(node)}) == 1
    assert len(states(node)) == 2


@pytest.mark.parametrize("output", ["..", "/", "../../x", "a/..", "x" * 300, "é\n"])
def test_an_output_names_no_folder_but_its_own(tmp_path: Path, output: str) -> None:
    node = Node(tmp_path, OPEN)
    node.train(1, strategy="local", output=output, **ONE_STEP)
    (state,) = states(node)
    assert Path(state).parts[0] == "runs"
    assert len(Path(state).parts) == 3
    assert not [path for path in tmp_path.iterdir() if path.name not in {"state", "images.npz", "policy.toml"}]


# The budget.


def test_a_policy_of_dp_sgd_has_a_budget(tmp_path: Path) -> None:
    """Without one, noise of any size was DP-SGD."""
    (tmp_path / "policy.toml").write_text('weights = "dp_sgd"\n')
    with pytest.raises(SettingError, match=r"^`policy.max_epsilon` = 0.0 is not allowed: > 0 when"):
        Policy.load(tmp_path / "policy.toml")


def test_an_upload_and_the_training_of_a_round_share_the_budget(tmp_path: Path) -> None:
    """Each alone was within it."""
    upload: dict[str, Any] = {"cut_ratio": 0.62, "upload__clip_norm": 4.3}
    private: dict[str, Any] = {"train__local_epochs": 4.0, "client__batch_size": 16, "dp__noise_multiplier": 2.0}

    def granted(name: str, uploads: bool, **changes: Any) -> Any:
        (tmp_path / name).mkdir()
        node = Node(tmp_path / name, "max_epsilon = 8\nmin_batch_size = 1\n")
        return node.train(1, uploads, **(upload | private | changes))

    assert granted("upload", True, dp__noise_multiplier=0.0).upload is not None
    assert granted("training", False).metrics.steps > 0
    assert limit(granted("both", True)) == "max_epsilon"
