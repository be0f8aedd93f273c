"""An operator who sends backbones of its choice to a client that chooses where it takes over, and times the answers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord

from collafuse_flwr.config.config import Config
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.wire.codec import ClientError
from collafuse_flwr.wire.collafuse import SampleHandoff
from collafuse_flwr.wire.common import EvaluateReply
from tests.adversarial.node import QUICK, Node

BEST: dict[str, Any] = {"sampling__handover": "best", "cut_ratio": 0.6, "upload__share_labels": False}
ALLOWED = 'numbers = ["cut"]\nmin_number_images = 1\nmax_reports = 2\n'


def handed(round_: int) -> SampleHandoff:
    settings = QUICK | {name.replace("__", "."): value for name, value in BEST.items()}
    setup = diffusion_setup(Config.from_flat(settings))
    weights = ArrayRecord(setup.backbone(1, 8, 10).state_dict())
    return SampleHandoff(round=round_, x_k=torch.randn(2, 1, 8, 8), backbone=weights)


@pytest.mark.parametrize("limits", ["", 'numbers = ["cut"]\n', "min_number_images = 1\n"])
def test_the_choice_says_something_of_held_out_images_and_needs_their_owners_leave(tmp_path: Path, limits: str) -> None:
    """Where the networks change shows in the time of an answer: by bisection, in losses at any backbone."""
    reply = Node(tmp_path, limits).ask("evaluate", handed(1), EvaluateReply, **BEST)
    assert isinstance(reply, ClientError)
    assert "`numbers`" in reply.reason


def test_choices_end_with_the_answers_that_may_hold_numbers_and_are_on_the_ledger(tmp_path: Path) -> None:
    node = Node(tmp_path, ALLOWED)
    replies = [node.ask("evaluate", handed(round_), EvaluateReply, **BEST) for round_ in (1, 2, 3)]
    assert [isinstance(reply, ClientError) for reply in replies] == [False, False, True]
    lines = (node.state / "ledger.jsonl").read_text().splitlines()
    assert sum('"handover"' in line for line in lines) == 2


def test_samples_that_are_no_numbers_are_no_failure_of_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they were hung on where the client took over, so an error was a bit of its images."""
    monkeypatch.setattr(DiffusionSetup, "sample", lambda *_: torch.full((2, 1, 8, 8), math.nan))
    reply = Node(tmp_path, ALLOWED).ask("evaluate", handed(1), EvaluateReply, **BEST)
    assert not isinstance(reply, ClientError)
    assert reply.num_samples == 2
