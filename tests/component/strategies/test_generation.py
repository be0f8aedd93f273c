"""Generating after training: server and clients together, each on its own disk, as one process makes it alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from collafuse_flwr.core.progress import Progress
from collafuse_flwr.runs.history import RoundRecord
from collafuse_flwr.runs.run_dir import open_run
from collafuse_flwr.runs.run_layout import RunLayout
from simulations import request
from simulations.run import run
from simulations.runners.local import run_local
from strategies import make_strategy
from tests.commands import refused
from tests.generating import alone, generate_with, generating, own, pictures
from tests.message_guard import Tap, guard
from tests.small_runs import connect, here_is, small

# The same images.


def test_server_and_clients_make_what_one_process_makes_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    run(generating(trained, generate__seed=3))
    for client in range(3):
        made = pictures(own(trained, client))
        assert len(made) == 6
        assert made == alone(trained, tmp_path / str(client), f"client={client}", "num_images=5", "seed=3")
    written = json.loads((own(trained, 1) / "generated.json").read_text())
    assert (written["cut_step"], written["seed"], written["num_images"]) == (6, 3, 5)


@pytest.mark.parametrize(
    "settings",
    [
        {"upload__share_labels": False, "sampling__sampler": "ddpm"},
        {"data__conditioning": "none", "cut_ratio": 0.6},
        {"strategy": "hybrid"},
        {"strategy": "local", "train__cfg_dropout": 0.2},
        {"strategy": "fedavg"},
        {"strategy": "udec"},
    ],
    ids=["labels are kept back", "no labels", "hybrid", "local", "fedavg", "udec"],
)
def test_so_does_every_strategy_of_denoisers(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = tmp_path / "run"
    config = small(folder, num_supernodes=2, num_rounds=1, evaluation__tstr="none", **settings)
    run_local(config)
    guided = {"generate__guidance": 2.0} if config.train.cfg_dropout else {}
    run_local(generating(folder, 4, num_supernodes=2, **guided))
    arguments = ["client=1", "num_images=4", *(["guidance=2"] if guided else [])]
    made = pictures(own(folder, 1))
    assert len(made) == 5
    assert made == alone(folder, tmp_path / "alone", *arguments)


def test_one_class_for_one_client(trained: Path, tmp_path: Path) -> None:
    run(generating(trained, generate__client=1, generate__label=4))
    assert pictures(own(trained, 1)).keys() == {*(f"{i}-class-4.png" for i in range(5)), "grid.png"}
    assert not own(trained, 0).exists()
    assert not own(trained, 2).exists()


def test_a_run_that_still_goes_on_generates_with_its_last_evaluation(tmp_path: Path) -> None:
    """Its server saves the backbone whenever clients save their networks."""
    folder = tmp_path / "run"
    config = small(folder, num_supernodes=2, num_rounds=3, evaluation__every=1)
    open_run(config, folder)

    class StopsError(Exception):
        pass

    def stop(row: RoundRecord) -> None:
        raise StopsError

    strategy = make_strategy(config, folder, Progress(quiet=True), lambda client: here_is(config, folder, client))
    strategy.on_round, grid = stop, connect(config)
    with pytest.raises(StopsError):
        strategy.start(grid, strategy.connect(grid), 3)
    run_local(generating(folder, num_supernodes=2))
    assert len(pictures(own(folder, 1))) == 6


# What crosses.


@pytest.mark.parametrize("share", [True, False])
def test_images_never_travel_and_a_count_is_the_answer(tmp_path: Path, share: bool) -> None:
    folder, tap = tmp_path / "run", Tap()
    run_local(small(folder, num_supernodes=2, num_rounds=1, evaluation__tstr="none", upload__share_labels=share))
    config = generating(folder, num_supernodes=2)
    generate_with(tap.app, config)
    assert len(tap.crossed) == 12
    seen = guard(config, tap.crossed)
    assert {name for kind, way, _, name in seen if (kind, way) == ("query.generate", "up")} == {"num_images"}
    assert (("query.generate", "down", "arrays", "labels") in seen) == share


# What a client's owner wants.


def ask(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["request", *arguments])
        return request.main()


def test_a_request_is_served_by_the_next_run(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = RunLayout(trained).client(1).folder
    assert ask(f"state={state}", "num_images=3", "label=5", "seed=8") == 0
    assert "the next run with task=generate serves it" in capsys.readouterr().out
    run(generating(trained, 0))
    assert pictures(own(trained, 1)).keys() == {*(f"{i}-class-5.png" for i in range(3)), "grid.png"}
    assert not own(trained, 0).exists()
    run(generating(trained, 2))
    assert len(pictures(own(trained, 1, 2))) == 3
    assert not own(trained, 1, 3).exists()


def test_both_are_served_in_one_run(trained: Path) -> None:
    assert ask(f"state={RunLayout(trained).client(2).folder}", "num_images=3") == 0
    run(generating(trained, 2))
    assert [len(pictures(own(trained, 2, number))) for number in (1, 2)] == [3, 4]


def test_a_request_can_be_taken_back(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = RunLayout(trained).client(1).folder
    assert ask(f"state={state}") == 0
    assert ask(f"state={state}", "num_images=0") == 0
    capsys.readouterr()
    run(generating(trained, 0))
    assert capsys.readouterr().out == "nobody wants any image\n"


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("label=10", "`label` = 10 is not allowed: -1 for all, or one of 0..9"),
        ("label=one", "`label` = 'one' is not allowed: a whole number >= -1"),
        ("num_images=-1", "`num_images` = -1 is not allowed: a whole number >= 0"),
        ("seed=-1", "`seed` = -1 is not allowed"),
        ("run=../other", "`run` = '../other' is not allowed: one of none"),
        ("colour=red", "`colour` = 'red' is not allowed: one of state="),
        ("state=/absent", "`state` = '/absent' is not allowed: the folder of a client that has come to an evaluation"),
        ("state=", "`state` = '' is not allowed"),
    ],
)
def test_a_mistake_in_a_request_is_one_line(
    finished: Path, capsys: pytest.CaptureFixture[str], argument: str, said: str
) -> None:
    state = RunLayout(finished).client(1).folder
    assert ask(f"state={state}", argument) == 2
    assert said in refused(capsys)
    assert not (state / "request.json").exists()
