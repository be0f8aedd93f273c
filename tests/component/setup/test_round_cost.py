"""What a round is predicted to take: the work that a run does, at the rates of a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collafuse_flwr.client.cut_policies import CutContext, allowed_cuts, work_unit
from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import UserError
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.setup.round_cost import WorkUnit, largest_cut_within_time, round_cost, round_seconds
from tests.small_runs import dotted, federate, metrics, small

UNIT = WorkUnit(flops=1000, network=500, upload=10)


def settings(**given: Any) -> Config:
    flat = {
        "num_supernodes": 2,
        "num_rounds": 10,
        "diffusion.timesteps": 20,
        "train.local_epochs": 2.0,
        "devices.profiles": ["1e-6:1e-4", "2"],
    }
    return Config.from_flat(flat | dotted(given))


def test_the_work_of_a_round_is_what_a_run_does(tmp_path: Path) -> None:
    config = small(tmp_path, client__init_from="backbone", client__start_round=2, train__local_epochs=8.0)
    strategy = federate(config)
    images = federation_data(config.data, 3, 0)
    unit = work_unit(config, diffusion_setup(config), images.images)
    for row in metrics(tmp_path):
        for client, client_info in strategy.client_manager.client_infos.items():
            load = round_cost(config, unit, client_info.num_images, client_info.cut_step, row["round"])
            numbers = row["clients"][str(client)]
            batch = 3 * unit.flops * config.client.batch_size
            assert 0 <= load.flops - numbers["flops"] < batch or load.flops == numbers["flops"] == 0
            # A message has an envelope: names, numbers and the shapes of arrays.
            assert load.bytes_up <= row["bytes_up"][str(client)] < 1.2 * load.bytes_up + 1000
            assert load.bytes_down <= row["bytes_down"][str(client)] < 1.2 * load.bytes_down + 10_000


def test_the_longest_round_counts() -> None:
    """1000 operations and 100 bytes a second: waiting for the backbone makes the rounds after it longer."""
    always = round_seconds(settings(client__init_from="random"), UNIT, 30, 0, 5)
    assert always == pytest.approx(3 * 1000 * 60 * 0.25 / 1000 + 30 * 10 / 100)
    late = round_seconds(settings(client__start_round=6), UNIT, 30, 0, 5)
    assert late == pytest.approx(2 * 3 * 1000 * 60 * 0.25 / 1000 + 500 / 100)


def test_uploads_are_counted_as_often_as_they_leave() -> None:
    def bytes_up(**given: Any) -> list[float]:
        return [round_cost(settings(**given), UNIT, 30, 5, round_).bytes_up for round_ in (1, 2, 3)]

    assert bytes_up() == [300, 0, 0]
    assert bytes_up(upload__draws_per_image=2) == [600, 0, 0]
    assert bytes_up(upload__noise="resampled") == [300, 300, 300]
    assert bytes_up(upload__noise="resampled", upload__max_releases=2) == [300, 300, 0]
    assert bytes_up(strategy="hybrid") == [800, 500, 500]
    assert round_cost(settings(), UNIT, 30, 20, 1).bytes_up == 0


@pytest.mark.parametrize("most", [15.0, 100.0, 150.0])
def test_it_is_the_last_cut_that_keeps_to_the_limit(most: float) -> None:
    config = settings(cut__policy="by_device", cut__target=most, client__init_from="random")
    cut = largest_cut_within_time(config, UNIT, 30, 0)
    assert round_seconds(config, UNIT, 30, 0, cut) <= most < round_seconds(config, UNIT, 30, 0, cut + 1)
    assert largest_cut_within_time(config, UNIT, 30, 1) == 19


def test_a_limit_that_no_cut_keeps_to_is_refused_in_one_line() -> None:
    with pytest.raises(
        UserError, match=r"^`cut.target` = 2 s cannot be met by client 0 \(device 1e-6:1e-4\): even .* 1 of 20 .* 12 s$"
    ):
        largest_cut_within_time(
            settings(cut__policy="by_device", cut__target=2, client__init_from="random"), UNIT, 30, 0
        )


def test_a_client_takes_the_cut_that_its_device_allows(tmp_path: Path) -> None:
    config = small(tmp_path, devices__profiles=["1", "2", "0.01:1"], cut__policy="by_device", cut__target=30)
    setup, data = diffusion_setup(config), federation_data(config.data, 3, 0)
    given = [CutContext(config, setup, data.client(c).train, c, ClientStore(tmp_path / str(c))) for c in range(3)]
    cuts = [cut for one in given for cut in allowed_cuts(one)]
    unit = work_unit(config, setup, data.images)
    assert cuts == [largest_cut_within_time(config, unit, len(data.client(c).train), c) for c in range(3)]
    assert cuts[1] == 19
    assert cuts[2] < cuts[0] <= 19
