"""DP-SGD in whole rounds: what is counted, what keys the noise, and that an interruption changes neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message

from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.runs.run_layout import RunLayout
from tests.small_runs import bytes_of, connect, metrics, run_strategy, small, spoiled

PRIVATE: dict[str, Any] = {
    "model": "nano",
    "num_supernodes": 2,
    "data.max_images": 60,
    "client.batch_size": 12,
    "dp.noise_multiplier": 2.0,
    "dp.max_grad_norm": 0.5,
}


@pytest.mark.parametrize("strategy", ["fedprox", "hybrid"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, strategy: str) -> None:
    settings = PRIVATE | {"strategy": strategy} | ({"cut_ratio": 0.5} if strategy == "hybrid" else {})
    run_strategy(small(tmp_path / "straight", **settings))
    config = small(tmp_path / "resumed", **settings)

    def die(message: Message, context: Context) -> Message | None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_strategy(config, connect(config, spoiled(1, die, rounds=[2])))
    run_strategy(config)
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "resumed")
    assert bytes_of(tmp_path / "straight") == bytes_of(tmp_path / "resumed")
    rows = metrics(tmp_path / "resumed")
    for client, evaluation in rows[-1]["evaluation"].items():
        taken = sum(row["clients"][client]["steps"] for row in rows)
        assert evaluation["dp_steps"] == taken > 0


def test_the_noise_is_keyed_by_the_secret_not_by_the_seed(tmp_path: Path) -> None:
    settings = PRIVATE | {"num_supernodes": 1, "num_rounds": 1}
    states = []
    for name in ("seeded", "own"):
        config = small(tmp_path / name, **settings)
        store = ClientStore(RunLayout(tmp_path / name).client(0).folder)
        if name == "own":
            store.secret(None, 0)
        run_strategy(config)
        states.append(store.load(before=2)[1]["average"])
    assert not states[0].equal(states[1])


def test_ordinary_training_counts_no_private_steps(tmp_path: Path) -> None:
    run_strategy(small(tmp_path, model="nano", num_rounds=1, data__max_images=60))
    assert {row["dp_steps"] for row in metrics(tmp_path)[-1]["evaluation"].values()} == {0}
    assert not Ledger(RunLayout(tmp_path).client(0).ledger).exposure().training
