"""The bench of what a client costs: bytes are those of the messages, and clients' work is not counted as cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations.bench import clients
from simulations.bench.clients import _work
from tests.commands import refused


def test_the_command_measures_shows_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "clients.json"
    assert clients.main(["clients=2", "images=8", "rounds=1", f"output={output}"]) == 0
    assert "beyond" in capsys.readouterr().out
    split, averaged = json.loads(output.read_text())["rows"]
    assert [split["strategy"], averaged["strategy"]] == ["collafuse", "fedavg"]
    assert split["lost"] == averaged["lost"] == 0
    # The network has 0.16 M parameters of 4 bytes. It goes up in each of three rounds, with its average in the last.
    assert averaged["bytes_up"] == pytest.approx(4 * 4 * 160, rel=0.05)
    assert split["bytes_down"] == pytest.approx(4 * 160, rel=0.05)
    assert split["bytes_up"] < 10
    assert all(0 < row["beyond"] < row["seconds"] for row in (split, averaged))


def test_the_work_of_a_round_is_that_of_the_server_and_of_all_clients() -> None:
    row = {"server": {"seconds": 2.0}, "clients": {"0": {"seconds": 1.0}, "1": {"seconds": 0.5}}}
    assert _work(row) == 3.5
    assert _work(row | {"server": {}}) == 1.5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("clients=0,4", "`clients` = '0,4' is not allowed: whole numbers above 0"),
        ("strategies=fedagv", "`strategy` = 'fedagv' is not allowed"),
        ("images=3", "`images` = 3 is not allowed: a whole number >= 4"),
        ("runner=rya", "`runner` = 'rya' is not allowed: one of ray, local, flwr"),
        ("step=8", "`step` = 8 is not allowed: no such setting"),
    ],
)
def test_a_mistake_is_refused_in_one_line(wrong: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert clients.main([wrong]) == 2
    assert message in refused(capsys)
