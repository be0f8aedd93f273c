"""An operator who goes back in rounds, begins new runs, loses replies, and lets others ask at the same time."""

from __future__ import annotations

import json
import math
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from collafuse_flwr.client import cut_policies
from collafuse_flwr.client.collafuse import CollaFuseClient
from collafuse_flwr.client.cut_policies import CutContext, allowed_cuts
from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import read_appended
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.federated import load_client_data
from collafuse_flwr.privacy.accounting import Training, composed_epsilon
from collafuse_flwr.privacy.ledger import Ledger, Release
from collafuse_flwr.runs.cost_report import client_costs
from collafuse_flwr.runs.dp_report import dp_guarantees
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.wire.codec import ClientError
from collafuse_flwr.wire.collafuse import SampleHandoff
from collafuse_flwr.wire.common import EvaluateReply
from tests.adversarial.node import OPEN, QUICK, Node, ledger_of

FRESH: dict[str, Any] = {"cut_ratio": 0.8, "upload__noise": "resampled"}


def test_rounds_that_go_back_get_nothing(tmp_path: Path) -> None:
    """Forty rounds in descending order were forty uploads with new noise, of which the ledger knew one."""
    node = Node(tmp_path, OPEN)
    granted = [node.upload(round_, upload__max_releases=1, **FRESH) is not None for round_ in range(40, 30, -1)]
    assert granted == [True] + [False] * 9
    assert ledger_of(node).exposure().releases == 1


def test_a_new_run_does_not_reset_the_limit(tmp_path: Path) -> None:
    node = Node(tmp_path, OPEN)
    granted = [node.upload(round_=run, run=run, upload__max_releases=2, **FRESH) is not None for run in range(1, 6)]
    assert granted == [True, True, False, False, False]
    assert ledger_of(node).exposure().releases == 2


def test_an_evaluation_of_an_old_round_wipes_nothing(tmp_path: Path) -> None:
    node, granted = Node(tmp_path, OPEN), 0
    for round_ in (1, 2, 3):
        granted += node.upload(round_, upload__max_releases=1, **FRESH) is not None
        handoff = SampleHandoff(round=0, x_k=torch.zeros(2, 1, 8, 8), labels=torch.zeros(2, dtype=torch.int64))
        assert isinstance(node.ask("evaluate", handoff, EvaluateReply, **FRESH), ClientError)
    assert granted == 1
    assert ledger_of(node).exposure().releases == 1


def test_a_round_is_answered_once(tmp_path: Path) -> None:
    node = Node(tmp_path, OPEN)
    assert not isinstance(node.train(3), ClientError)
    assert isinstance(node.train(3), ClientError)
    assert isinstance(node.train(2), ClientError)
    assert not isinstance(node.train(4), ClientError)
    assert not isinstance(node.train(1, run=2), ClientError), "another run has rounds of its own"


def test_two_runs_at_once_share_one_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would find that the other has taken nothing yet, if both may look before either has written."""
    node, both, planned = Node(tmp_path, "max_releases = 2\n"), threading.Barrier(2), CollaFuseClient._planned

    def looks(client: CollaFuseClient, round_: int) -> Release | None:
        wanted = planned(client, round_)
        with suppress(threading.BrokenBarrierError):
            both.wait(1)
        return wanted

    # What draws images and what loads networks is not made to be begun twice at the same time.
    assert node.upload(run=9, cut_ratio=0.9) is not None
    monkeypatch.setattr(CollaFuseClient, "_planned", looks)
    replies: list[Any] = []
    threads = [
        threading.Thread(target=lambda run=run: replies.append(node.train(round_=run, run=run, **FRESH)))
        for run in (2, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(reply).__name__ for reply in replies) == ["ClientError", "TrainReply"]
    (refusal,) = (reply for reply in replies if isinstance(reply, ClientError))
    assert "`max_releases` = 2" in refusal.reason
    assert ledger_of(node).exposure().releases == 2


def test_two_messages_at_once_choose_one_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would choose, and a file of two cuts would be of no use to any later message."""
    node, both = Node(tmp_path, OPEN), threading.Barrier(2)
    chosen = {"cut.policy": "by_disclosure", "cut.criterion": "epsilon", "cut.target": 8, "upload.clip_norm": 4.3}
    config = Config.from_flat(QUICK | chosen)
    images = load_client_data(config.data, bytes(16), str(tmp_path / "images.npz"), str(tmp_path / "cache")).train
    context = CutContext(config, diffusion_setup(config), images, 0, ClientStore(node.state))

    def slow(*_: Any) -> int:
        with suppress(threading.BrokenBarrierError):
            both.wait(1)
        return 14

    monkeypatch.setattr(cut_policies, "choose_cut", slow)
    cuts: list[tuple[int, ...]] = []
    threads = [threading.Thread(target=lambda: cuts.append(allowed_cuts(context))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cuts == [(14,), (14,)]
    assert len(read_appended(context.store.layout.cut)) == 1


def test_a_refusal_waits_for_the_message_that_is_being_answered(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert not isinstance(node.train(), ClientError)
    refused = threading.Thread(target=lambda: node.train(run=2, upload__share_labels=True))
    with ClientStore(node.state).lock():
        refused.start()
        refused.join(1.0)
        assert refused.is_alive()
        assert ledger_of(node).count("refusal") == 0
    refused.join()
    assert ledger_of(node).count("refusal") == 1


# Differential privacy.


def test_steps_of_dp_sgd_compose_with_their_own_noise(tmp_path: Path) -> None:
    """100 steps at sigma 0.5, then 1 at sigma 20: at sigma 20 for all, epsilon was .34; the first alone is 37."""
    ledger = Ledger(tmp_path / "ledger.jsonl", "run")
    ledger.add_training(Training(0.5, 1.0, 100), 1.0, "a")
    ledger.add_training(Training(20.0, 1.0, 1), 1.0, "b")
    ledger.add_training(Training(20.0, 1.0, 1), 1.0, "b")
    exposure = ledger.exposure()
    assert exposure.dp_steps == 101, "the same steps, repeated, are no more"
    assert exposure.epsilon(1e-5) == pytest.approx(composed_epsilon(math.hypot(40, 0.1), 1e-5))


def test_a_lost_evaluation_hides_no_upload() -> None:
    """Twenty fresh uploads, and an answer to the first evaluation alone: epsilon was that of one."""
    config = Config.from_flat({"upload.noise": "resampled", "diffusion.schedule": "linear", "cut_ratio": 0.7})
    said = {"num_samples": 2, "releases": 1, "release_mu": 1.0, "bits": 1.0, "dp_steps": 0, "kernel_distance": 0.0}
    trained = {"loss": 1.0, "steps": 1, "image_updates": 1, "seconds": 1.0, "flops": 1}
    empty: dict[str, Any] = {name: {} for name in ("server", "bytes_up", "bytes_down", "failed", "rejected")}
    rounds = [
        {"round": i, "cuts": {"0": 70}, "images": {"0": 100}, "clients": {"0": trained}, "uploads": ["0"]}
        | {"evaluation": {"0": said} if i == 1 else {}}
        | empty
        for i in range(1, 21)
    ]
    (row,) = clients = client_costs(config, rounds)
    assert row["releases"] == 20
    mu = dp_guarantees(config, 64, clients)["dp_mu"]
    (once,) = client_costs(config, rounds[:1])
    assert mu == pytest.approx(math.sqrt(20) * (dp_guarantees(config, 64, [once])["dp_mu"] or 0))


@pytest.mark.parametrize(
    "other",
    [
        {"upload.clip_norm": 0.0},
        {"upload.noise": "resampled", "num_rounds": 50},
        {"upload.draws_per_image": 16},
        {"dp.delta": 1e-12},
        {"image_size": 4},
        {"data.max_images": 12},
        {"data.holdout_fraction": 0.5},
    ],
)
def test_a_cut_that_was_chosen_for_less_is_none_for_more(tmp_path: Path, other: dict[str, Any]) -> None:
    """Chosen for epsilon 8 at a norm of 4.3, it was kept without clipping (16.5), and with 50 new draws (111)."""
    node = Node(tmp_path)
    chosen = QUICK | {
        "cut.policy": "by_disclosure",
        "cut.criterion": "epsilon",
        "cut.target": 8,
        "upload.clip_norm": 4.3,
    }

    def cut(**settings: Any) -> int:
        config = Config.from_flat(chosen | settings)
        setup = diffusion_setup(config)
        path = str(tmp_path / "images.npz")
        images = load_client_data(config.data, bytes(16), path, str(tmp_path / "cache")).train
        (chosen_cut,) = allowed_cuts(CutContext(config, setup, images, 0, ClientStore(node.state)))
        return chosen_cut

    first = cut()
    assert cut() == first
    with pytest.raises(SettingError, match=r"^`cut.target` = 8.0 is not allowed: as before, .* has chosen its cut"):
        cut(**other)


def test_every_message_is_on_the_ledger(tmp_path: Path) -> None:
    """With the numbers that it said, and the images by names that tell nothing."""
    node = Node(tmp_path, OPEN + 'numbers = ["loss"]\nmin_number_images = 1\n')
    assert not isinstance(node.train(1, train__local_epochs=1.0, cut_ratio=0.5), ClientError)
    entries = [json.loads(line) for line in (node.state / "ledger.jsonl").read_text().splitlines()]
    assert [entry["kind"] for entry in entries] == ["round", "secret", "images", "release", "measured", "numbers"]
    assert {entry["run"] for entry in entries} == {"1"}
    assert entries[3]["round"] == 1
    assert len(entries[2]["keys"]) == 16
    assert "loss" in entries[5]["values"]
