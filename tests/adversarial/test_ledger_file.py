"""A disk that is full, writes that are cut short, and an operator who would fill the disk by messages."""

from __future__ import annotations

import io
import multiprocessing
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from collafuse_flwr.core.atomic_io import append_json_lines, read_appended
from collafuse_flwr.core.errors import PolicyError, SecretError
from collafuse_flwr.privacy import ledger as module
from collafuse_flwr.privacy.ledger import Ledger, Release
from collafuse_flwr.wire.codec import ClientError
from collafuse_flwr.wire.common import ClientInfo, ClientInfoRequest
from tests.adversarial.node import Node

ROWS: list[dict[str, object]] = [{"kind": "images", "keys": ["0" * 32] * 100}, {"kind": "release", "draws": [0]}]


class Short(io.FileIO):
    """A file that writes a few bytes at a time, as an interrupted system call does."""

    def write(self, data: Any) -> int:
        return super().write(bytes(data)[:7])


def test_a_write_that_is_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the lines was lost, and the upload that they named left all the same."""
    monkeypatch.setattr("os.fdopen", lambda descriptor, *_, **__: Short(descriptor, "r+"))
    path = tmp_path / "ledger.jsonl"
    assert append_json_lines(path, ROWS) == ROWS
    assert read_appended(path) == ROWS


def _append_under_a_limit(path: Path, limit: int, reply: Any) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        Ledger(path, "run").add_release(Release(("b" * 32,) * 50, (1,), 0.1, 0.0, (1, 8, 8)))
        reply.send("")
    except OSError as error:
        reply.send(type(error).__name__)


def in_a_process(path: Path, limit: int) -> str:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_append_under_a_limit, args=(path, limit, theirs))
    process.start()
    said: str = ours.recv()
    process.join()
    process.close()
    for end in (ours, theirs):
        end.close()
    return said


@pytest.mark.parametrize("room", [10, 1900])
def test_a_full_disk_is_an_error_before_anything_leaves_and_the_ledger_stays_readable(
    tmp_path: Path, room: int
) -> None:
    """The first row, or the second, is cut off in the middle; what is whole before it counts."""
    path = tmp_path / "ledger.jsonl"
    Ledger(path, "run").add_release(Release(("a" * 32,), (0,), 0.1, 0.0, (1, 8, 8)))
    before = path.stat().st_size
    assert in_a_process(path, before + room) == "OSError"
    assert path.stat().st_size == before + room, "some of it was written"
    assert Ledger(path).exposure().releases == 1
    Ledger(path, "run").add_release(Release(("a" * 32,), (3,), 0.1, 0.0, (1, 8, 8)))
    assert Ledger(path).exposure().releases == 2


def test_the_same_refusal_is_noted_once_a_run(tmp_path: Path) -> None:
    """Every refused message, which costs an operator nothing, was another line on the owner's disk, for ever."""
    node = Node(tmp_path)
    for run in (1, 1, 1, 2):
        assert isinstance(node.train(run=run, strategy="fedavg"), ClientError)
    entries = read_appended(node.state / "ledger.jsonl")
    assert [(entry["kind"], entry["run"]) for entry in entries] == [("refusal", "1"), ("refusal", "2")]


def test_introductions_do_not_lengthen_the_ledger(tmp_path: Path) -> None:
    """No round counts them, so that they could come as often as an operator likes."""
    node = Node(tmp_path)
    for _ in range(3):
        assert not isinstance(node.ask("query.client_info", ClientInfoRequest(), ClientInfo), ClientError)
    assert len(read_appended(node.state / "ledger.jsonl")) == 1


def test_refusals_and_the_ledger_itself_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REFUSALS", 5)
    path = tmp_path / "ledger.jsonl"
    for run in range(10):
        Ledger(path, str(run)).add_refusal("beyond the policy")
    assert len(read_appended(path)) == 5
    monkeypatch.setattr(module, "MAX_BYTES", path.stat().st_size)
    monkeypatch.setattr(module, "MAX_REFUSALS", 50)
    Ledger(path, "new").add_refusal("beyond the policy")
    assert len(read_appended(path)) == 5
    with pytest.raises(PolicyError, match="is full: nothing more leaves"):
        Ledger(path, "new").begin("train", 1)


def test_a_full_ledger_refuses_and_a_damaged_one_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(tmp_path)
    assert node.upload(cut_ratio=0.5) is not None
    monkeypatch.setattr(module, "MAX_BYTES", 1)
    assert "is full" in node.train(2, cut_ratio=0.5).reason
    (node.state / "ledger.jsonl").write_text("?\n")
    assert isinstance(node.train(3, strategy="fedavg"), ClientError)


def test_a_message_reads_a_long_ledger_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was read again after each line that was added to it: a message's six took seconds at 10^5 lines."""
    path = tmp_path / "ledger.jsonl"
    row = {"time": 1, "run": "old", "kind": "numbers", "message": "train", "values": {"steps": 1}}
    append_json_lines(path, [row] * 100_000, durable=False)
    reads: list[Path] = []

    def read(own: Path) -> list[dict[str, Any]]:
        reads.append(own)
        return read_appended(own)

    monkeypatch.setattr(module, "read_appended", read)
    ledger, began = Ledger(path, "new", durable=False), time.process_time()
    for round_ in range(1, 6):
        ledger.begin("train", round_)
        ledger.add_release(Release(("a",), (round_,), 0.1, 0.0, (1, 8, 8)))
        assert ledger.exposure().releases == round_
    assert reads == [path]
    assert time.process_time() - began < 10
    assert ledger.entries == read_appended(path)


@pytest.mark.parametrize("damage", ["flipped", "a line gone", "the end gone", "all gone"])
def test_a_ledger_that_is_not_as_it_was_written_stops_the_client(tmp_path: Path, damage: str) -> None:
    """A flipped digit, or a line less, let images leave once more."""
    node, path = Node(tmp_path), tmp_path / "state" / "ledger.jsonl"
    assert node.upload(cut_ratio=0.5) is not None
    lines = path.read_bytes().splitlines(keepends=True)
    if damage == "all gone":
        path.unlink()
    else:
        changed = {
            "flipped": [line.replace(b'"clip_norm": 0.0', b'"clip_norm": 9.0') for line in lines],
            "a line gone": [line for line in lines if b'"release"' not in line],
            "the end gone": lines[:-1],
        }
        assert changed[damage] != lines
        path.write_bytes(b"".join(changed[damage]))
    assert isinstance(node.train(2, cut_ratio=0.5), ClientError)
    with pytest.raises(SecretError, match="is damaged"):
        Ledger(path).exposure()


def test_another_secret_stops_the_client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under it every image has a new name on the ledger, and new noise."""
    node = Node(tmp_path, "max_releases = 1\n")
    assert node.upload(cut_ratio=0.5) is not None
    path = tmp_path / "state" / "secret"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    assert isinstance(node.train(2, cut_ratio=0.5), ClientError)
    assert "is another than before: restore it from a backup" in capsys.readouterr().err
