from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from simulations import suite as page
from simulations.cli import CONF, USER_ERROR, config_of, register_schema

SUITES = sorted(path.stem for path in page.SUITES.glob("*.yaml"))


@pytest.mark.parametrize("name", SUITES)
def test_every_run_of_every_page_has_settings_that_are_allowed(name: str) -> None:
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for sweep in page.sweeps(name, []):
            chosen = [argument for argument in sweep if not argument.startswith("hydra")]
            grid: list[list[str]] = [[]]
            for argument in chosen:
                setting, values = argument.split("=", 1)
                each = [values] if values.startswith("[") else values.split(",")
                grid = [[*cell, f"{setting}={value}"] for cell in grid for value in each]
            for cell in grid:
                config_of(compose("config", cell), ())


def test_settings_that_are_given_take_the_place_of_the_page_s() -> None:
    for sweep in page.sweeps("digits", ["seed=5", "cut_ratio=0.3"]):
        assert [argument for argument in sweep if argument.startswith("seed=")] == ["seed=5"]
        assert [argument for argument in sweep if argument.startswith("cut_ratio=")] == ["cut_ratio=0.3"]


def test_an_unknown_page_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert page.main(["faces"]) == USER_ERROR
    said = capsys.readouterr().err
    assert said.startswith("error: `suite` = 'faces'")
    assert len(said.splitlines()) == 1
    assert page.main([]) == USER_ERROR


def test_a_failed_sweep_does_not_stop_the_others_and_sets_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        called.append(command)
        return SimpleNamespace(returncode=1 if len(called) == 1 else 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert page.main(["digits"]) == 1
    assert len(called) == len(page.sweeps("digits", [])) + 1
    assert called[-1][2] == "simulations.report"
