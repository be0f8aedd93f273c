"""Clients that move their cut in the middle of a run, as their own rewards say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, MetricRecord

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import UserError
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.setup.diffusion import diffusion_setup
from strategies.collafuse import CollaFuse
from tests.small_runs import bytes_of, connect, federate, metrics, small, spoiled

#: Cuts 4, 8 and 12 of 20 steps; one round of warm-up, five of exploration.
MOVING: dict[str, Any] = {
    "cut.policy": "adaptive",
    "cut.choices": [0.6, 0.2, 0.4],
    "devices.profiles": ["0.01:1", "0.1:1", "1:10"],
    "model": "nano",
    "num_rounds": 7,
    "evaluation.every": 1,
    "evaluation.num_samples": 6,
}
ORDER = [12, 12, 8, 4]


def moving(folder: Path, **settings: Any) -> Config:
    return small(folder, **MOVING | settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> CollaFuse:
    return federate(moving(tmp_path_factory.mktemp("moving")))


def cuts_of(folder: Path, client: int) -> list[int]:
    return [row["cuts"][str(client)] for row in metrics(folder)]


def test_it_warms_up_tries_all_cuts_from_the_largest_and_keeps_to_one(run: CollaFuse) -> None:
    for client in range(3):
        cuts = cuts_of(run.layout.folder, client)
        assert cuts[:4] == ORDER
        assert set(cuts[4:6]) <= {4, 8, 12}
        assert len(set(cuts[4:6])) == 2, "two cuts are left in the second phase"
        assert cuts[6] in cuts[4:6]
        assert run.client_manager.client_infos[client].cut_step == cuts[6]


def test_only_a_smaller_cut_uploads_and_all_lie_on_one_path(run: CollaFuse) -> None:
    rows = metrics(run.layout.folder)
    assert [sorted(row["uploads"]) for row in rows] == [
        ["0", "1", "2"],
        [],
        ["0", "1", "2"],
        ["0", "1", "2"],
        [],
        [],
        [],
    ]
    snr = diffusion_setup(run.config).schedule.snr()
    for client in range(3):
        ledger = Ledger(run.layout.client(client).ledger)
        assert [own.snr for own in ledger.releases] == [float(snr[cut]) for cut in (12, 8, 4)]
        exposure = ledger.exposure()
        assert (exposure.releases, exposure.snr) == (1, float(snr[4]))
        assert run.pool.shares[client].cut == 4
    assert rows[-1]["evaluation"]["0"]["releases"] == 1


def test_the_backbone_trains_from_the_least_noisy_samples_alone(run: CollaFuse) -> None:
    source = run.pool.limited(dict.fromkeys(range(3), 1e9))
    images = sum(own.num_images for own in run.client_manager.client_infos.values())
    assert len(source) == images == len(run.pool)
    _, start, _ = source.batch(torch.arange(len(source)))
    assert set(start.tolist()) == {4}


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """The folder of the same run once more, and the cuts from which samples were finished."""
    folder, finished = tmp_path_factory.mktemp("again"), []
    grid = DiffusionSetup.client_grid

    def noted(self: DiffusionSetup, cut: int, chosen: int | None = None) -> list[int]:
        if chosen is not None:
            # Without one it is the cost that is counted.
            finished.append(cut)
        return grid(self, cut, chosen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiffusionSetup, "client_grid", noted)
        federate(moving(folder))
    return folder, finished


def test_samples_are_handed_over_at_the_current_cut(again: tuple[Path, list[int]]) -> None:
    folder, finished = again
    assert sorted(finished) == sorted(cut for row in metrics(folder) for cut in row["cuts"].values())


def test_the_same_seed_gives_the_same_bits(run: CollaFuse, again: tuple[Path, list[int]]) -> None:
    assert metrics(again[0]) == metrics(run.layout.folder)
    assert bytes_of(again[0]) == bytes_of(run.layout.folder)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    ("moment", "killed_in"), [("aggregate_train", 3), ("aggregate_evaluate", 4), ("aggregate_train", 6)]
)
def test_a_killed_run_resumes_to_the_same_bits(
    run: CollaFuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, killed_in: int
) -> None:
    original = getattr(CollaFuse, moment)

    def dies(self: CollaFuse, *arguments: Any) -> Any:
        if self.history.rounds[-1].round == killed_in:
            raise Killed
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(CollaFuse, moment, dies)
        with pytest.raises(Killed):
            federate(moving(tmp_path))
    federate(moving(tmp_path))
    assert metrics(tmp_path) == metrics(run.layout.folder)
    whole = bytes_of(run.layout.folder)
    # Regions of the pool that were given up may differ.
    assert {name: own for name, own in bytes_of(tmp_path).items() if not name.endswith(".bin")} == {
        name: own for name, own in whole.items() if not name.endswith(".bin")
    }


def test_the_floor_of_the_target_is_never_crossed(tmp_path: Path) -> None:
    """A cut of 4 steps would leave more signal than -0 dB."""
    config = moving(tmp_path, cut__criterion="snr_db", cut__target=0.0)
    strategy = federate(config)
    floor = json.loads(RunLayout(tmp_path).client(0).cut.read_text())["cut_step"]
    assert 4 < floor <= 12
    allowed = {cut for cut in (8, 12) if cut >= floor}
    for client in range(3):
        assert set(cuts_of(tmp_path, client)) == allowed
        snr = Ledger(strategy.layout.client(client).ledger).exposure().snr
        assert snr <= 1


def test_an_owners_limits_take_cuts_away(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        'numbers = ["cut"]\nmin_number_images = 1\nmin_cut_ratio = 0.4\nlabels = true\nmin_batch_size = 1\n'
    )
    federate(moving(tmp_path / "run", policy=str(policy)))
    for client in range(3):
        assert set(cuts_of(tmp_path / "run", client)) == {8, 12}
    policy.write_text(
        'numbers = ["cut"]\nmin_number_images = 1\nmin_cut_ratio = 0.7\nlabels = true\nmin_batch_size = 1\n'
    )
    with pytest.raises(UserError, match=r"`min_cut_ratio` = 0\.7"):
        federate(moving(tmp_path / "none", policy=str(policy)))


def test_without_devices_a_simulation_would_hang_on_the_clock(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^`devices.profiles` = '' is not allowed: the clients' devices in a simulation"
    ):
        federate(moving(tmp_path, devices__profiles=""))


def _at(cut: int) -> Any:
    def answer(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        reply.content["recut"] = MetricRecord({"cut": cut})
        return reply

    return answer


@pytest.mark.parametrize(("cut", "reason"), [(5, "must be one of 4, 8, 12"), (8, "reaches|no less noisy|within")])
def test_a_cut_that_does_not_fit_costs_only_its_client(tmp_path: Path, cut: int, reason: str) -> None:
    """Not one of the choices, or another than the one that the upload was noised to."""
    config = moving(tmp_path, num_rounds=6)
    strategy = federate(config, connect(config, spoiled(1, _at(cut), rounds=[4])))
    row = strategy.history.rounds[3]
    assert set(row.rejected) == {"1"}
    # The upload of the round that was refused is requested again.
    assert strategy.pool.shares[1].cut == min(cuts_of(tmp_path, 1))
