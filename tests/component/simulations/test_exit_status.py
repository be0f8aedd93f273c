"""The exit status of a command: 2 where its arguments are wrong, 1 where the run failed, both with one line."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from collafuse_flwr.client.collafuse import CollaFuseClient
from collafuse_flwr.client.generation import GenerateClient
from collafuse_flwr.core import errors
from collafuse_flwr.core.errors import DamagedError, RunFailed, SettingError, UserError
from simulations.cli import complain
from simulations.runners.local_grid import LocalGrid
from tests.commands import refused, run_here
from tests.component.simulations.test_run import ARGUMENTS

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, UserError)]


def refuse(*_: object, **__: object) -> NoReturn:
    raise UserError("it has no images")


def crash(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("no memory")


def nobody(_: LocalGrid) -> list[int]:
    return []


@pytest.mark.parametrize("kind", KINDS)
def test_each_error_that_ends_a_command_has_its_status(
    kind: type[UserError], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {SettingError: ("seed", -1, "a whole number"), DamagedError: (Path("state"),)}
    assert complain(kind(*arguments.get(kind, ("no",)))) == (1 if kind is RunFailed else 2)
    assert refused(capsys)


@pytest.mark.parametrize(
    ("owner", "name", "instead", "message"),
    [
        (CollaFuseClient, "on_train", refuse, "no client contributed in round 1: it has no images"),
        (CollaFuseClient, "on_train", crash, "no client contributed in round 1: RuntimeError: no memory"),
        (CollaFuseClient, "client_info", refuse, "it has no images"),
        (LocalGrid, "get_node_ids", nobody, "only 0 of 3 clients came within `federation.round_timeout`"),
    ],
    ids=["all refuse to train", "all crash", "all refuse to take part", "nobody comes"],
)
def test_a_run_that_its_clients_end_has_failed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    owner: type,
    name: str,
    instead: object,
    message: str,
) -> None:
    monkeypatch.setattr(owner, name, instead)
    assert run_here(tmp_path, *ARGUMENTS, "output=out", "federation.round_timeout=1") == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_run_in_which_nobody_generates_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(tmp_path, *ARGUMENTS, "num_rounds=1", "output=out") == 0
    capsys.readouterr()
    generate = ["runner=local", "task=generate", "output=out", "generate.num_images=2", "quiet=true"]
    monkeypatch.setattr(GenerateClient, "answer", refuse)
    assert run_here(tmp_path, *generate) == 1
    assert "it has no images" in capsys.readouterr().err.splitlines()[-1]
    assert run_here(tmp_path, *generate, "output=elsewhere") == 2
