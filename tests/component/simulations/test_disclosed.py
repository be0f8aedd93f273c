"""What an owner reads of its ledger: a table, a picture and the same as JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from collafuse_flwr.privacy.accounting import Training
from collafuse_flwr.privacy.ledger import Ledger, Release
from simulations import disclosed as command
from simulations.disclosed import disclosed
from tests.adversarial.node import OPEN, Node


def main(arguments: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["disclosed", *arguments])
        return command.main()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The ledger of a client that took part in two runs."""
    path = tmp_path / "ledger.jsonl"
    first, second = Ledger(path, "1"), Ledger(path, "2")
    keys = tuple(f"{i:032x}" for i in range(64))
    first.begin("train", 1)
    first.add_release(Release(keys, (0,), 0.01, 0.0, (1, 8, 8)), labels=True)
    first.add("measured", bits=5.0)
    second.add_release(Release(keys, (0, 1), 0.001, 0.0, (1, 8, 8)), labels=False)
    second.add_training(Training(2.0, 1.0, 7), 1.0, "state")
    second.add("numbers", message="train", values={"steps": 7, "flops": 9})
    second.add("refusal", reason="beyond the policy")
    return tmp_path


def test_every_run_is_a_row_and_all_of_them_are_added_up(state: Path) -> None:
    releases = disclosed(Ledger(state / "ledger.jsonl"), 1e-5)
    assert list(releases["runs"]) == ["1", "2"]
    first, second = releases["runs"].values()
    assert (first["uploads"], first["labels"]) == (1, True)
    assert first["snr_db"] == pytest.approx(-20)
    assert (second["dp_steps"], second["numbers"], second["refusal"]) == (7, 2, 1)
    whole = releases["whole"]
    assert (whole["images"], whole["releases"], whole["bits"]) == (64, 2, 5.0)
    assert whole["snr_db"] == pytest.approx(10 * math.log10(0.011))
    assert whole["mu"] == pytest.approx(16 * math.sqrt(0.011))
    assert whole["epsilon"] == pytest.approx(Ledger(state / "ledger.jsonl").exposure().epsilon(1e-5))
    assert whole["reid"] == 1.0, "five bits and Fano's one name one of 64"


def test_what_it_is_worth_is_there_though_no_operator_has_evaluated(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert node.upload(cut_ratio=0.5) is not None
    ledger = Ledger(node.state / "ledger.jsonl")
    whole = disclosed(ledger, 1e-5)["whole"]
    assert whole["bits"] > 0
    assert 0 < whole["reid"] <= 1
    # A later run measures less of images that have left by then.
    ledger.add("measured", bits=0.0)
    assert disclosed(ledger, 1e-5)["whole"] == whole


def test_the_owner_gets_a_table_a_picture_and_json(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"state={state}", f"output={state / 'out'}"]) == 0
    assert "epsilon: " in capsys.readouterr().out
    assert json.loads((state / "out" / "disclosed.json").read_text())["whole"]["images"] == 64
    with Image.open(state / "out" / "disclosed.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_table_is_whole_on_a_terminal(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    Ledger(state / "ledger.jsonl", "17529384756102938475").add("refusal", reason="beyond the policy")
    monkeypatch.setenv("COLUMNS", columns)
    assert main([f"state={state}"]) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= int(columns)
    whole = (
        "What has left this client",
        "17529384756102938475",
        "1 upload at -20 dB, with labels",
        "7 steps of DP-SGD",
    )
    assert [
        part for part in (*whole, "1 upload at -30 dB", "2 numbers", "1 refused request") if part not in shown
    ] == []


def test_it_reads_the_ledger_of_a_client_that_uploaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = Node(tmp_path, OPEN)
    assert node.upload(cut_ratio=0.5) is not None
    assert main([f"state={node.state}"]) == 0
    assert "releases: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "`state` = '' is not allowed: the folder of a client's state, which holds ledger.jsonl"),
        (["state=nowhere"], "`state` = 'nowhere' is not allowed"),
        (["delta=2"], "`delta` = '2' is not allowed: a number above 0 and below 1"),
        (["folder=x"], "`folder` = 'x' is not allowed: one of state, output, delta"),
    ],
)
def test_a_mistake_is_one_line(
    state: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    given = arguments if not arguments or arguments[0].startswith("state") else [f"state={state}", *arguments]
    assert main(given) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")
