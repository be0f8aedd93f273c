"""The oracle: what clients do is CollaFuse's, what the backbone learns from is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from collafuse_flwr.core.errors import SettingError, UserError
from collafuse_flwr.data.federated import federation_data
from tests.small_runs import connect, metrics, run_strategy, small


def test_clients_do_and_send_what_they_do_in_collafuse(tmp_path: Path) -> None:
    run_strategy(small(tmp_path / "oracle", strategy="clean_server"))
    run_strategy(small(tmp_path / "split"))
    for ours, theirs in zip(metrics(tmp_path / "oracle"), metrics(tmp_path / "split"), strict=True):
        assert ours["clients"] == theirs["clients"]
        assert ours["bytes_up"] == theirs["bytes_up"]
        assert ours["server"]["loss"] != theirs["server"]["loss"]
        assert ours["server"]["image_updates"] == theirs["server"]["image_updates"]


def test_at_c_0_it_is_centralised_training(tmp_path: Path) -> None:
    """There x_k is x_0, but for the int8 of the wire."""
    made = [
        run_strategy(small(tmp_path / name, strategy=name, upload__dtype="float32", **own))
        for name, own in (("clean_server", {"cut_ratio": 0.0}), ("centralized", {}))
    ]
    first, second = (strategy.backbone.state.ema_state_dict() for strategy in made if hasattr(strategy, "backbone"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=5e-3)


def test_it_wants_one_cut_for_all(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"`cut.client_ratios` = "):
        small(tmp_path, strategy="clean_server", cut__client_ratios=[0.1, 0.2, 0.3])


def test_it_refuses_clients_whose_images_it_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(tmp_path, strategy="clean_server")
    other = federation_data(config.data, config.run.num_supernodes, seed=99)
    monkeypatch.setattr("strategies.clean_server.federation_data", lambda *_: other)
    with pytest.raises(UserError, match="simulations only"):
        run_strategy(config, connect(config))
