"""What the ledger makes of its entries, and that they are on the disk before anything leaves."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from collafuse_flwr.core.atomic_io import TORN, append_json_lines
from collafuse_flwr.core.errors import RoundError, SecretError
from collafuse_flwr.privacy import ledger as module
from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.wire.codec import ClientError
from tests.adversarial.node import OPEN, Node, a_release


def test_releases_on_one_path_are_one_and_the_least_noisy_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", "run")
    for snr in (0.1, 0.3, 0.2):
        ledger.add_release(a_release("a", "b", snr=snr))
    assert (ledger.exposure().releases, ledger.exposure().snr) == (1, 0.3)
    assert ledger.exposure().mu == pytest.approx(2 * 8 * math.sqrt(0.3))
    ledger.add_release(a_release("b", draws=(1, 2), snr=0.1))
    assert ledger.exposure().releases == 3
    assert ledger.exposure().snr == pytest.approx(0.5)
    assert ledger.exposure(a_release("a")).releases == 1, "of this image"


def test_another_clip_norm_and_another_size_are_further_releases(tmp_path: Path) -> None:
    """Of another size an image has another key: it may be any that left at that size."""
    ledger = Ledger(tmp_path / "ledger.jsonl", "run")
    ledger.add_release(a_release("a"))
    assert ledger.exposure(a_release("a", clip_norm=4.3)).releases == 2
    assert ledger.exposure(a_release("small", shape=(1, 4, 4))).releases == 2


def test_what_left_is_on_the_disk_before_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    ledger = Ledger(tmp_path / "new" / "ledger.jsonl", "run")
    ledger.add_release(a_release("a"))
    assert len(synced) == 2, "the file, and the folder that names it"
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600


def test_a_client_has_an_upload_on_its_disk_before_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the answer would have the ledger forget what the server has."""
    node, sync, on_disk = Node(tmp_path), os.fsync, [b""]

    def synced(descriptor: int) -> None:
        sync(descriptor)
        path = node.state / "ledger.jsonl"
        if path.exists() and os.path.sameopenfile(descriptor, reading := os.open(path, os.O_RDONLY)):
            on_disk[0] = path.read_bytes()
            os.close(reading)

    monkeypatch.setattr("os.fsync", synced)
    assert node.upload(cut_ratio=0.5) is not None
    assert on_disk[0] == (node.state / "ledger.jsonl").read_bytes()
    assert b'"kind": "release"' in on_disk[0]


@pytest.mark.parametrize("kind", ["round", "secret", "release", "numbers"])
def test_what_cannot_be_written_down_does_not_leave(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk, which an operator may bring about."""
    node = Node(tmp_path, OPEN + 'numbers = ["loss"]\nmin_number_images = 1\n')

    def appends(path: Path, rows: list[dict[str, Any]], durable: bool = True) -> list[dict[str, Any]]:
        if any(row["kind"] == kind for row in rows):
            raise OSError(28, "No space left on device")
        return append_json_lines(path, rows, durable)

    monkeypatch.setattr(module, "append_json_lines", appends)
    settings: dict[str, Any] = {"train__local_epochs": 4.0, "cut_ratio": 0.5}
    assert isinstance(node.train(**settings), ClientError)
    monkeypatch.undo()
    assert not isinstance(node.train(2, **settings), ClientError)


def test_a_line_that_was_cut_off_is_skipped_and_damage_is_not(tmp_path: Path) -> None:
    """What is cut off had not left. But a ledger that cannot be read whole must not count as empty."""
    ledger = Ledger(tmp_path / "ledger.jsonl", "run")
    ledger.add_release(a_release("a"))
    with ledger.path.open("ab") as file:
        file.write(b'{"kind": "rele')
    assert Ledger(ledger.path).exposure().releases == 1
    Ledger(ledger.path).add_release(a_release("a", draws=(1,)))
    assert TORN in ledger.path.read_bytes()
    assert Ledger(ledger.path).exposure().releases == 2
    ledger.path.write_bytes(b"?" + ledger.path.read_bytes())
    with pytest.raises(SecretError, match="is damaged"):
        Ledger(ledger.path).begin("train", 1)


def test_rounds_are_those_of_a_run_and_each_message_comes_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", "a")
    ledger.begin("train", 1)
    ledger.begin("evaluate", 1)
    ledger.begin("train", 3)
    for message, round_ in (("train", 3), ("train", 2), ("evaluate", 1)):
        with pytest.raises(RoundError, match="has come to round 3"):
            ledger.begin(message, round_)
    Ledger(ledger.path, "b").begin("train", 1)
