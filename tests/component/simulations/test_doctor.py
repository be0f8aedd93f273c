"""What the doctor finds, on machines of all kinds."""

from __future__ import annotations

import io
import os
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from simulations import doctor
from simulations.doctor import Finding, examine, show

Memory = namedtuple("Memory", "available total")
Usage = namedtuple("Usage", "free")


def finding_of(what: str) -> Finding:
    (finding,) = (own for own in examine() if own.what == what)
    return finding


def test_it_names_what_a_report_of_an_error_needs() -> None:
    names = [finding.what for finding in examine()]
    assert {"python", "torch", "flwr", "ray", "device", "cores", "memory", "runs", "decoded images", "ports"} <= set(
        names
    )


def test_a_machine_that_is_short_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(2e9, 8e9))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(5e8))
    monkeypatch.setattr(os, "getloadavg", lambda: (64.0, 0, 0))
    assert "runner=local" in finding_of("memory").advice
    assert finding_of("memory").value == "2.0 of 8.0 GB free"
    assert "less than 1 GB" in finding_of("runs").advice
    assert "64.0" in finding_of("cores").advice


def test_a_machine_that_has_enough_is_left_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(8e9, 8e9))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(5e10))
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0, 0))
    assert not any(finding_of(what).advice for what in ("memory", "runs", "cores"))


def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {port: "Fleet"})
        assert f"{port} (Fleet) taken" in finding_of("ports").advice
    assert not finding_of("ports").advice


def test_a_folder_that_cannot_be_written_stops_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not finding_of("runs").stops
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)
    assert finding_of("runs").stops
    assert "`output`" in finding_of("runs").advice
    monkeypatch.setattr("sys.argv", ["doctor"])
    assert doctor.main() == 1
    assert "! runs: it cannot be written to" in capsys.readouterr().out


def test_what_is_to_change_is_said_once_below_the_table() -> None:
    out = io.StringIO()
    show([Finding("torch", "2.9"), Finding("memory", "1 GB", "buy some")], Console(file=out, width=100))
    assert out.getvalue().splitlines()[-1] == "! memory: buy some"
    out = io.StringIO()
    show([Finding("torch", "2.9")], Console(file=out))
    assert out.getvalue().splitlines()[-1] == "Nothing to change."
