"""The work of a run, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from collafuse_flwr.config.config import Config
from collafuse_flwr.setup.planned_work import planned_work

#: Two clients at cut 20 of 100, of 100 and 300 images.
CLIENTS = [(100, 20), (300, 20)]
SETTINGS: dict[str, Any] = {"num_supernodes": 2, "num_rounds": 4, "train.local_epochs": 5.0, "cut_ratio": 0.2}


def planned(**settings: Any) -> dict[str, list[float]]:
    given = {name.replace("__", "."): value for name, value in settings.items()}
    return planned_work(Config.from_flat(SETTINGS | given), CLIENTS, measured=True)


def test_clients_that_start_late_make_up_for_it() -> None:
    """A fifth of five passes over 400 images is 400 updates a round, four rounds of them; three passes for each."""
    assert planned(client__init_from="random")["clients"] == pytest.approx([1200] * 4 + [0])
    assert planned(client__start_round=4)["clients"] == pytest.approx([0, 0, 0, 4800, 0])


def test_the_backbone_has_the_rest_of_every_round() -> None:
    assert planned(server__update_multiplier=2.0)["backbone"] == pytest.approx([2 * 4800] * 4 + [0])
    assert planned(strategy="fedavg", cut_ratio=0.2)["backbone"] == [0] * 5


def test_a_backbone_that_denoises_its_uploads_does_so_and_trains_every_step_from_then_on() -> None:
    """In the third round of four: of 400 uploads each takes its 20 steps, or fewer, and then all 2,000 updates are."""
    random: dict[str, Any] = {"client__init_from": "random", "deconvolution__iterations": 1}
    assert planned(**random)["backbone"] == pytest.approx([4800, 4800, 6000 + 8000, 6000, 0])
    fewer = planned(**random, deconvolution__sampling_steps=5)["backbone"]
    assert fewer == pytest.approx([4800, 4800, 6000 + 2000, 6000, 0])


def test_samples_are_made_where_they_are_evaluated_and_measured_at_the_end() -> None:
    work = planned(evaluation__every=2, evaluation__num_samples=256, sampling__steps=10, evaluation__tstr="pooled")
    assert work["sampling"] == [0, 2560, 0, 2560, 0]
    # On real images 150 steps of 128; on 256 samples 200 of 32.
    assert work["measuring"] == [0, 0, 0, 0, 3 * (150 * 128 + 200 * 32)]
    each = planned(evaluation__num_samples=256, sampling__steps=10, evaluation__tstr="clients")["measuring"]
    # And for each client on 128 samples: 150 steps of 32.
    assert each[-1] - work["measuring"][-1] == 3 * 2 * 150 * 32


def test_nothing_is_measured_where_clients_are_elsewhere() -> None:
    assert planned_work(Config.from_flat(SETTINGS), CLIENTS, measured=False)["measuring"] == [0] * 5


def test_every_step_of_the_chain_is_a_call_where_none_is_left_out() -> None:
    assert planned(sampling__steps=0, evaluation__num_samples=10)["sampling"] == [0, 0, 0, 1000, 0]
