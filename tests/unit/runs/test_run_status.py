"""How far a run is, from what its folder holds."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import UserError
from collafuse_flwr.core.time_left import expected_work
from collafuse_flwr.runs.history import History, RoundRecord, read_rounds
from collafuse_flwr.runs.round_scalars import quality_scalars, round_scalars
from collafuse_flwr.runs.run_dir import write_config
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.runs.run_status import LISTED, RunStatus, duration
from collafuse_flwr.setup.planned_work import planned_work

WROTE = 1_000_000.0
TRAINED = {"loss": 0.5, "steps": 4, "image_updates": 32, "seconds": 1.0, "flops": 8}


def closed(number: int, **changes: object) -> RoundRecord:
    row = RoundRecord(
        number,
        values=64,
        cuts={"0": 20, "1": 20, "2": 20},
        images=dict.fromkeys("012", 10),
        server={"loss": 0.25},
        clients={"0": TRAINED, "1": TRAINED | {"loss": 1.0}},
        bytes_up={"0": 1_000_000, "1": 500_000},
        bytes_down={"0": 2_000_000},
        uploads=["0", "1"] if number == 1 else [],
        seconds=20.0,
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def folder_of(folder: Path, *rounds: RoundRecord, **settings: object) -> Path:
    """The folder of a run of ten rounds that closed some of them, the last one at `WROTE`."""
    write_config(Config.from_flat({"num_supernodes": 3} | settings), folder)
    if rounds:
        History(folder, list(rounds)).write_metrics()
    for path in folder.iterdir():
        os.utime(path, (WROTE, WROTE))
    return folder


def test_seconds_of_rounds_tell_the_time_that_is_left(tmp_path: Path) -> None:
    """Of a GAN, whose rounds are alike."""
    rounds = closed(1, seconds=10.0), closed(2, seconds=30.0)
    status = RunStatus.of(folder_of(tmp_path, *rounds, strategy="fedgan"))
    assert status.round_seconds == 20
    assert status.seconds_left(WROTE) == 8 * 20
    assert status.seconds_left(WROTE + 5) == 8 * 20 - 5
    assert status.seconds_left(WROTE + 50) == 7 * 20, "the round takes longer than those before it"
    assert status.lines(WROTE)[1] == "round 2 of 10, 20.0 s a round, about 3 min left"


def test_the_time_left_knows_that_clients_start_late_and_that_samples_are_measured(tmp_path: Path) -> None:
    """The rounds so far were the backbone's alone; those that are left are as planned beside them."""
    RunLayout(tmp_path).clients.mkdir()
    status = RunStatus.of(folder_of(tmp_path, closed(1, seconds=10.0), closed(2, seconds=30.0)))
    work = expected_work(planned_work(status.config, [(10, 20)] * 3, measured=True))
    left = status.seconds_left(WROTE)
    assert left == pytest.approx(20 / work[0] * sum(work[2:]))
    assert left is not None
    assert left > 8 * 20
    # Who was not chosen yet counts like the others.
    one = replace(status, rounds=[replace(row, images={"1": 10}) for row in status.rounds])
    assert one.seconds_left(WROTE) == left
    RunLayout(tmp_path / "all").clients.mkdir(parents=True)
    after = RunStatus.of(folder_of(tmp_path / "all", *(closed(number) for number in range(1, 11))))
    assert after.seconds_left(WROTE) == pytest.approx(200 / sum(work[:10]) * work[10])
    assert after.seconds_left(WROTE + 1e6) == 0


@pytest.mark.parametrize(
    ("closed_rounds", "seconds", "patience"),
    [
        (0, 0.0, 600),
        (2, 20.0, 100),
        (2, 1.0, 60),
        (9, 20.0, 600),
        (9, 200.0, 1000),
        (10, 20.0, 600),
    ],
    ids=["before the first", "five rounds", "a minute at least", "evaluates first", "longer", "samples are measured"],
)
def test_a_run_that_is_silent_for_much_longer_than_its_rounds_has_stopped(
    tmp_path: Path, closed_rounds: int, seconds: float, patience: float
) -> None:
    rounds = [closed(number + 1, seconds=seconds) for number in range(closed_rounds)]
    status = RunStatus.of(folder_of(tmp_path, *rounds))
    assert status.phase(WROTE + patience) == ("running" if closed_rounds < 10 else "measuring its samples")
    assert status.phase(WROTE + patience + 1) == "stopped in the middle"
    assert not any("resume" in line for line in status.lines(WROTE + 10_000)), "there is no checkpoint"


def test_a_run_with_a_summary_is_finished_however_old_it_is(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *(closed(number) for number in range(1, 11)))
    write_json(RunLayout(folder).summary, {"pooled": {"fd": 12.345, "tstr": 0.9}})
    status = RunStatus.of(folder)
    assert status.phase(WROTE + 1e9) == "finished"
    assert status.lines(WROTE)[-1] == "quality of all samples: Fréchet distance 12.3, TSTR 0.9"


def test_clients_losses_traffic_and_disclosure_are_added_up(tmp_path: Path) -> None:
    lost = closed(2, failed={"2": "no reply within 5 seconds"}, rejected={"1": "too large"})
    lines = RunStatus.of(folder_of(tmp_path, closed(1), lost)).lines(WROTE)
    assert lines[0] == f"{tmp_path}: running (collafuse on digits)"
    assert lines[2] == (
        "round 2: clients 2 answered, 1 failed, 1 rejected, backbone loss 0.2500, client loss 0.7500, 20.0 s"
    )
    assert lines[3:6] == [
        "lost so far: 2 contributions",
        "  round 2, client 2 failed: no reply within 5 seconds",
        "  round 2, client 1 was rejected: too large",
    ]
    assert lines[6] == "traffic so far: 3.00 MB up, 4.00 MB down"
    assert lines[7] == "disclosed so far: images; releases of an image 1; SNR at the cut 9.5 dB"
    assert "epsilon" in lines[8]


def test_only_the_latest_of_many_losses_are_listed(tmp_path: Path) -> None:
    rounds = [closed(number, failed={"2": f"reason {number}"}) for number in range(1, 9)]
    lines = RunStatus.of(folder_of(tmp_path, *rounds)).lines(WROTE)
    assert "lost so far: 8 contributions, the latest:" in lines
    assert [line[-1] for line in lines if "client 2 failed" in line] == [str(n) for n in range(9 - LISTED, 9)]


def test_a_folder_without_rounds_says_so(tmp_path: Path) -> None:
    status = RunStatus.of(folder_of(tmp_path))
    assert status.lines(WROTE) == [f"{tmp_path}: running (collafuse on digits)", "round 0 of 10"]


@pytest.mark.parametrize("text", ["{\n", '{"round": 1, "colour": 2}\n', "3\n"])
def test_damaged_metrics_are_one_line(tmp_path: Path, text: str) -> None:
    RunLayout(folder_of(tmp_path)).metrics.write_text(text)
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged"):
        read_rounds(tmp_path)


def test_an_older_layout_and_a_damaged_summary_are_one_line(tmp_path: Path) -> None:
    layout = RunLayout(folder_of(tmp_path))
    layout.summary.write_text("{")
    with pytest.raises(UserError, match=r"summary\.json is damaged"):
        RunStatus.of(tmp_path)
    layout.config.write_text(json.dumps(json.loads(layout.config.read_text()) | {"layout": 1}))
    with pytest.raises(UserError, match="the layout 1"):
        RunStatus.of(tmp_path)


def test_what_was_not_measured_has_no_scalar() -> None:
    idle = {"loss": None, "steps": 0}
    row = closed(1, server={"loss": float("nan")}, clients={"0": idle}, evaluation={"0": {"held_out_loss": 0.0}})
    assert not any(name.startswith("loss/") for name in round_scalars(row))
    scalars = round_scalars(closed(1, evaluation={"0": {"held_out_loss": 2.0}, "1": {"held_out_loss": None}}))
    assert {name: x for name, x in scalars.items() if name.startswith("loss/")} == {
        "loss/backbone": 0.25,
        "loss/client": 0.75,
        "loss/held-out": 2.0,
    }
    assert (scalars["seconds/round"], scalars["traffic/bytes-up"], scalars["clients/answered"]) == (20, 1_500_000, 2)
    pooled = {"fd": 1.5, "tstr": None, "bits": float("inf"), "note": "x"}
    assert quality_scalars({"pooled": pooled}) == {"quality/fd": 1.5}


@pytest.mark.parametrize(("seconds", "said"), [(119, "119 s"), (180, "3 min"), (7200, "2.0 h")])
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert duration(seconds) == said
