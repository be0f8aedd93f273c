"""The checkpoint is one file, taken up to the last bit, and metrics.jsonl is what it says."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from collafuse_flwr.core import tensor_io as files
from collafuse_flwr.runs.history import Checkpoint, History, RoundRecord
from collafuse_flwr.wire.common import ClientInfo
from tests.strict_json import strict


class Killed(BaseException):
    """Stands for the end of the process."""


def a_round(number: int) -> RoundRecord:
    row = RoundRecord(number, images={"0": 10, "11": 4}, server={"loss": 0.1 + 0.2, "steps": 3, "pool": 14})
    row.clients["11"] = {"loss": 1 / 3, "steps": 2}
    row.failed["0"] = "no reply within 5 seconds"
    row.rejected["1"] = '`upload.x_k` must be ... and "quoted" \n two lines'
    row.evaluation["11"] = {"bits": math.inf}
    row.count(row.bytes_up, 11, 100)
    return row


def a_journal(folder: Path, rounds: int = 2) -> History:
    client_infos = {client: ClientInfo(client, 20, 100, 9, 1, 8, 10, 0) for client in (11, 0)}
    return History(folder, [a_round(n + 1) for n in range(rounds)], client_infos)


CHECKPOINT = Checkpoint(
    {"server": {"network.weight": torch.randn(3, 4), "steps": torch.tensor(7)}, "cluster 3": {"steps": torch.ones(1)}},
    {"pool": {"0": {"begin": 0}}, "initialised": [0, 11], "deferred_updates": 12.34567890123456789},
)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bytes_of_a_client_add_up_by_direction() -> None:
    row = RoundRecord(1)
    for size in (100, 20):
        row.count(row.bytes_down, 3, size)
    row.count(row.bytes_up, 3, 7)
    row.count(row.bytes_up, 12, 1)
    assert row.bytes_down == {"3": 120}
    assert row.bytes_up == {"3": 7, "12": 1}


def test_a_new_run_has_no_checkpoint(tmp_path: Path) -> None:
    history = History(tmp_path)
    assert history.load() is None
    assert history == History(tmp_path)
    assert not files_in(tmp_path)


def test_everything_is_taken_up_again(tmp_path: Path) -> None:
    history = a_journal(tmp_path)
    history.save(CHECKPOINT)
    resumed = History(tmp_path)
    saved = resumed.load()
    assert saved is not None
    assert saved.state == CHECKPOINT.state
    assert {part: own.keys() for part, own in saved.tensors.items()} == {
        part: own.keys() for part, own in CHECKPOINT.tensors.items()
    }
    for part, own in CHECKPOINT.tensors.items():
        assert all(torch.equal(saved.tensors[part][name], value) for name, value in own.items())
    assert resumed == history
    assert list(resumed.client_infos) == list(history.client_infos), "in the same order"


@settings(max_examples=30)
@given(st.floats(0, 1e9), st.lists(st.integers(0, 999)), st.floats())
def test_numbers_are_taken_up_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, deferred_updates: float, initialised: list[int], loss: float
) -> None:
    folder = tmp_path_factory.mktemp("run")
    state = {"deferred_updates": deferred_updates, "initialised": initialised}
    History(folder, [RoundRecord(1, server={"loss": loss})]).save(Checkpoint(state=state))
    resumed = History(folder)
    assert resumed.load() == Checkpoint({}, state)
    assert resumed.rounds[0].server["loss"] == pytest.approx(loss, rel=0, abs=0, nan_ok=True)


def test_metrics_are_strict_json_a_line_for_each_round(tmp_path: Path) -> None:
    """Numbers that JSON does not know are null there, and as they were in the checkpoint."""
    history = a_journal(tmp_path, rounds=3)
    history.rounds[1].server["loss"] = math.nan
    history.save(CHECKPOINT)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [strict(line) for line in lines]
    assert [row["round"] for row in rows] == [1, 2, 3]
    assert rows[1]["server"]["loss"] is None
    assert rows[0]["evaluation"] == {"11": {"bits": None}}
    expected: dict[str, Any] = asdict(history.rounds[2]) | {"evaluation": {"11": {"bits": None}}}
    assert rows[2] == expected
    resumed = History(tmp_path)
    resumed.load()
    assert resumed.rounds[0].evaluation["11"]["bits"] == math.inf
    assert math.isnan(resumed.rounds[1].server["loss"])


def test_metrics_that_ran_ahead_or_fell_behind_can_be_made_those_of_the_checkpoint(tmp_path: Path) -> None:
    """A run may be killed between the two; reading the checkpoint alone changes nothing."""
    a_journal(tmp_path).save(CHECKPOINT)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    for wrong in ("", whole.splitlines()[0] + "\n", whole + '{"round": 3}\n'):
        path.write_text(wrong)
        resumed = History(tmp_path)
        resumed.load()
        assert path.read_text() == wrong
        resumed.write_metrics()
        assert path.read_text() == whole


def test_a_killed_checkpoint_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_journal(tmp_path, rounds=1).save(CHECKPOINT)
    before = files_in(tmp_path)

    def dies(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        Path(path).write_bytes(b"half")
        raise Killed

    monkeypatch.setattr(files, "save_file", dies)
    with pytest.raises(Killed):
        a_journal(tmp_path, rounds=2).save(CHECKPOINT)
    assert files_in(tmp_path) == before


def test_a_later_checkpoint_replaces_the_one_before(tmp_path: Path) -> None:
    for rounds in (1, 2, 3):
        a_journal(tmp_path, rounds).save(CHECKPOINT)
    resumed = History(tmp_path)
    resumed.load()
    assert [row.round for row in resumed.rounds] == [1, 2, 3]
    assert sorted(files_in(tmp_path)) == ["metrics.jsonl", "server/last-state.safetensors", "server/state.safetensors"]


def test_in_place_of_a_damaged_checkpoint_the_one_before_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rounds in (1, 2, 3):
        a_journal(tmp_path, rounds).save(CHECKPOINT)
    path = tmp_path / "server" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    resumed = History(tmp_path)
    assert resumed.load() is not None
    assert [row.round for row in resumed.rounds] == [1, 2]
    assert f"{path} is damaged" in capsys.readouterr().err
