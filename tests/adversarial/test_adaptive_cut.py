"""An operator who would have a client that moves its cut release, or finish samples, below what its owner allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from collafuse_flwr.config.config import Config
from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.wire.codec import ClientError
from collafuse_flwr.wire.collafuse import SampleHandoff, TrainReply, TrainRequest
from collafuse_flwr.wire.common import EvaluateReply
from tests.adversarial.node import QUICK, Node

#: A clean enough release for the cut 40, and not for 20.
LIMITS = 'max_snr_db = 0.0\nnumbers = ["cut"]\nmin_number_images = 1\nmin_batch_size = 1\n'
MOVING: dict[str, Any] = {
    "cut__policy": "adaptive",
    "cut__choices": [0.2, 0.4, 0.6],
    "cut__warmup_rounds": 0,
    "train__local_epochs": 3.0,
    "num_rounds": 100,
}
ALLOWED = {40, 60}


def rounds(node: Node, count: int, held: int | None = None, **settings: Any) -> list[Any]:
    """The answers to so many rounds of a server that says what it holds."""
    requests = [
        TrainRequest(round=number, num_rounds=100, want_upload=held is None, held_cut=held)
        for number in range(1, count + 1)
    ]
    return [node.ask("train", request, TrainReply, **MOVING | settings) for request in requests]


def test_the_floor_is_never_crossed_whatever_the_server_says_that_it_holds(tmp_path: Path) -> None:
    """It claims to hold nothing, so that every round uploads: all of it is one path, at the least noisy cut."""
    node = Node(tmp_path, LIMITS)
    replies = rounds(node, 5)
    assert {reply.recut.cut for reply in replies} == ALLOWED
    assert all(reply.upload is not None for reply in replies)
    exposure = Ledger(node.state / "ledger.jsonl").exposure()
    schedule = diffusion_setup(Config.from_flat(QUICK)).schedule
    assert exposure.releases == 1
    assert exposure.snr == float(schedule.snr()[min(ALLOWED)]) <= 1
    assert float(schedule.snr()[20]) > 1


def test_a_larger_cut_uploads_nothing_to_a_server_that_holds_a_smaller_one(tmp_path: Path) -> None:
    assert [reply.upload for reply in rounds(Node(tmp_path, LIMITS), 3, held=40)] == [None] * 3


@pytest.mark.parametrize("cut", [20, 50, 0, -1, 101])
def test_samples_at_a_cut_that_the_client_does_not_have_are_refused(tmp_path: Path, cut: int) -> None:
    node = Node(tmp_path, LIMITS)
    handoff = SampleHandoff(round=1, x_k=torch.zeros(2, 1, 8, 8), cut_step=cut)
    reply = node.ask("evaluate", handoff, EvaluateReply, **MOVING)
    assert isinstance(reply, ClientError)
    assert reply.reason.endswith(f"`cut_step` = {cut} of the samples")
    assert not isinstance(node.ask("evaluate", _at(60, 2), EvaluateReply, **MOVING), ClientError)


def test_a_fixed_cut_is_not_moved_by_samples_at_another(tmp_path: Path) -> None:
    node = Node(tmp_path, LIMITS)
    assert isinstance(node.ask("evaluate", _at(40, 1), EvaluateReply, cut_ratio=0.6), ClientError)
    assert not isinstance(node.ask("evaluate", _at(60, 2), EvaluateReply, cut_ratio=0.6), ClientError)


def _at(cut: int, round_: int) -> SampleHandoff:
    return SampleHandoff(round=round_, x_k=torch.zeros(2, 1, 8, 8), cut_step=cut)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ("max_snr_db = 0.0\nmin_batch_size = 1\n", "`numbers` = []"),
        (LIMITS.replace("min_number_images = 1\n", ""), "`numbers`, `min_number_images` and `max_reports`"),
        (LIMITS.replace("max_snr_db = 0.0", "max_snr_db = -30.0"), "`max_snr_db` = -30.0"),
    ],
)
def test_without_the_owners_leave_no_cut_moves(tmp_path: Path, limits: str, reason: str) -> None:
    node = Node(tmp_path, limits)
    (reply,) = rounds(node, 1)
    assert isinstance(reply, ClientError)
    assert reason in reply.reason
    assert Ledger(node.state / "ledger.jsonl").exposure().releases == 0


def test_moves_end_with_the_answers_that_may_hold_numbers(tmp_path: Path) -> None:
    replies = rounds(Node(tmp_path, LIMITS + "max_reports = 2\n"), 3)
    assert [isinstance(reply, ClientError) for reply in replies] == [False, False, True]
