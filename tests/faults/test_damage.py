"""Each file of an interrupted run is damaged, and the run goes on: docs/reliability.md says what comes of it."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run_here
from tests.faults.processes import ROUNDS, Run, result, rounds

#: So that clients choose their cuts, and keep them.
CUT = ("cut.policy=by_disclosure", "cut.criterion=snr_db", "cut.target=6")
Result = tuple[list[dict[str, Any]], dict[str, bytes]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    assert Run(folder, "runner=local", *CUT).finish()[0] == 0
    return result(folder)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after two rounds."""
    folder = tmp_path_factory.mktemp("interrupted") / "out"
    run = Run(folder, "runner=local", *CUT)
    run.wait_for_rounds(2)
    run.strike(signal.SIGKILL)
    return folder


def copied(interrupted: Path, to: Path) -> Path:
    """The run, in another folder."""
    folder = to / "out"
    shutil.copytree(interrupted, folder)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace(str(interrupted), str(folder)))
    return folder


def spoil(path: Path, damage: str) -> None:
    """Cut a file off, or flip a bit of it."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data[: len(data) // 3] if damage == "truncated" else data)


def resumed(folder: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Let it go on; its status, and what is on the terminal."""
    capfd.readouterr()
    status = run_here(folder.parent, "resume=true", f"output={folder}", "quiet=true")
    printed = capfd.readouterr()
    terminal = printed.err + printed.out
    assert "Traceback" not in terminal
    return status, terminal


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "metrics.jsonl", "tensorboard/*", "server/state.safetensors", "server/last-state.safetensors"),
        *("server/pool/x_k.bin", "server/pool/labels.bin", "clients/0/state-*1.safetensors"),
        *("clients/0/state-*2.safetensors", "clients/0/ledger.jsonl", "clients/0/secret", "clients/0/cut.json"),
    ],
)
def test_a_file_of_the_run_is_damaged(
    tmp_path: Path,
    interrupted: Path,
    undisturbed: Result,
    capfd: pytest.CaptureFixture[str],
    name: str,
    damage: str,
) -> None:
    folder = copied(interrupted, tmp_path)
    for path in folder.glob(name):
        spoil(path, damage)
    status, terminal = resumed(folder, capfd)
    if name == "config.json":
        assert status == 2
        assert str(folder) in terminal or "`" in terminal
        assert len(terminal.splitlines()) == 1
        return
    assert status == 0, terminal
    assert len(rounds(folder)) == ROUNDS
    failed = [row["failed"] for row in rounds(folder)[2:]]
    if name in ("clients/0/ledger.jsonl", "clients/0/cut.json"):
        # It cannot know what has left, or at which cut: it stays out, and says why.
        assert all("0" in row for row in failed)
        assert "is damaged" in terminal or "does not fit" in terminal
        return
    if name == "server/state.safetensors":
        assert "last-state.safetensors, the one before, is taken instead" in terminal
    if name.startswith("server/pool"):
        # The uploads travel once more, and nothing else differs.
        assert "wanted again" in terminal
        assert result(folder)[1] == undisturbed[1]
        return
    if name == "clients/0/state-*2.safetensors" and "the one before, is taken" in terminal:
        # A round of its own is gone.
        assert not any(failed)
        return
    assert result(folder) == undisturbed


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_nothing_leaves_a_client_whose_noise_would_be_another(
    tmp_path: Path, interrupted: Path, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    """What has left is used on; what is wanted again is not sent."""
    folder = copied(interrupted, tmp_path)
    spoil(folder / "clients" / "0" / "secret", damage)
    (folder / "server" / "pool" / "x_k.bin").write_bytes(b"")
    status, terminal = resumed(folder, capfd)
    assert status == 0, terminal
    assert "wanted again" in terminal
    assert [set(row["failed"]) for row in rounds(folder)[2:]] == [{"0"}] * (ROUNDS - 2)
