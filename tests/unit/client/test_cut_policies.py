"""Where a client cuts is settled once, before anything leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from collafuse_flwr.client.cut_policies import CutContext, allowed_cuts
from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.setup.privacy import choose_cut
from tests.small_runs import metrics, run_strategy, small


def cut_of(config: Config, folder: Path, client: int = 1) -> int:
    data = federation_data(config.data, 3, 0).client(client)
    (cut,) = allowed_cuts(CutContext(config, diffusion_setup(config), data.train, client, ClientStore(folder)))
    return cut


def test_without_a_target_the_settings_say(tmp_path: Path) -> None:
    assert cut_of(small(tmp_path, cut__client_ratios=[0.1, 0.4, 0.5]), tmp_path / "1") == 8
    assert not (tmp_path / "1").exists()


def test_a_cut_is_chosen_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(tmp_path, cut__policy="by_disclosure", cut__criterion="bits", cut__target=5)
    chosen = cut_of(config, tmp_path / "1")
    assert 0 < chosen < 20
    monkeypatch.setattr("collafuse_flwr.client.cut_policies.choose_cut", None)
    assert cut_of(config, tmp_path / "1") == chosen
    with pytest.raises(SettingError, match=r"^`cut.target` = 4.0 is not allowed: as before, .* has chosen its cut"):
        cut_of(small(tmp_path, cut__policy="by_disclosure", cut__criterion="bits", cut__target=4), tmp_path / "1")


def test_every_client_of_a_run_cuts_where_its_own_images_allow(tmp_path: Path) -> None:
    config = small(tmp_path, cut__policy="by_disclosure", cut__criterion="reid", cut__target=0.5, num_rounds=1)
    strategy = run_strategy(config)
    expected = {}
    for client in range(3):
        images = federation_data(config.data, 3, 0).client(client).train.images
        expected[str(client)] = choose_cut(config, diffusion_setup(config).schedule, images / 127.5 - 1, client)
    assert {str(c): client_info.cut_step for c, client_info in strategy.client_manager.client_infos.items()} == expected
    assert metrics(tmp_path)[0]["cuts"] == expected
    assert len(set(expected.values())) > 1
