"""The command `collafuse`: every command of simulations/, from a checkout and from the built wheel."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from omegaconf import OmegaConf

from collafuse_flwr.config.config import SETTINGS
from simulations.console import COMMANDS, RUN_AS, main
from simulations.usage import show_usage, wrapped

PROJECT = Path(__file__).parents[3]
CALL = [sys.executable, "-c", "from simulations.console import main; main()"]


def call(*arguments: str, cwd: Path = PROJECT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CALL, *arguments], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_every_module_that_is_run_is_a_command() -> None:
    run = {
        path.relative_to(PROJECT / "simulations").with_suffix("").as_posix().removesuffix("/__main__").replace("/", ".")
        for path in (PROJECT / "simulations").rglob("*.py")
        if '__name__ == "__main__"' in path.read_text() and "bench" not in path.parts
    }
    assert {RUN_AS.get(name, module) for name, module in COMMANDS.items()} == run
    for module in COMMANDS.values():
        assert importlib.util.find_spec(f"simulations.{module}") is not None


def test_the_help_says_what_each_does_and_imports_none_of_them() -> None:
    code = "import sys\nfrom simulations.console import main\nmain(['--help'], standalone_mode=False)\n"
    code += "print(sorted({'torch', 'flwr', 'hydra'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"
    for name in COMMANDS:
        (line,) = (line for line in shown.splitlines() if line.split()[:1] == [name])
        assert len(line.split()) > 2


@pytest.mark.parametrize("name", COMMANDS)
def test_each_explains_itself_by_the_name_that_it_was_called_by(name: str) -> None:
    shown = call(name, "--help")
    assert shown.returncode == 0, shown.stderr
    assert f"`collafuse {name}" in shown.stdout or "usage: flower-supernode" in shown.stdout
    for other in ("python -m", "simulations.", "Powered by Hydra"):
        assert other not in shown.stdout


def test_on_a_terminal_help_is_as_wide_as_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run = call("run", "--help").stdout
    text = wrapped(run, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.split() == run.split()
    # Every setting still begins a line.
    for setting in SETTINGS:
        assert f"\n  {setting}=" in text
    monkeypatch.setenv("COLUMNS", "50")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        monkeypatch.setattr(printed, "isatty", lambda: True, raising=False)
        show_usage("Some words.\n  name=: " + "word " * 30 + "\n    typed" + " as it is" * 10)
    lines = printed.getvalue().splitlines()
    assert max(map(len, lines[:-1])) <= 50
    assert lines[2].startswith("      word")
    assert lines[-1] == "    typed" + " as it is" * 10


def test_every_setting_of_generate_is_explained() -> None:
    shown = call("generate", "--help").stdout
    for setting in map(str, OmegaConf.load(PROJECT / "conf" / "generate.yaml")):
        assert setting in ("defaults", "hydra") or f"\n  {setting}=" in shown


def test_an_unknown_command_is_refused() -> None:
    result = CliRunner().invoke(main, ["trian"])
    assert result.exit_code == 2
    assert "No such command 'trian'" in result.output


def test_arguments_and_status_are_those_of_the_module() -> None:
    ended = call("run", "cut_ratio=7")
    assert ended.returncode == 2
    assert ended.stderr == "error: `cut_ratio` = 7 is not allowed: a number >= 0 and <= 1\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("collafuse run cut.pol", {f"cut.policy={own}" for own in SETTINGS["cut.policy"][1].metadata["choices"]}),
        ("collafuse run cut.policy = ad", {"adaptive"}),
        ("collafuse run resume =", {"true", "false"}),
        ("collafuse run resum", {"resume=true", "resume=false"}),
        ("collafuse sweep num_r", {"num_rounds="}),
        ("collafuse status num_r", set()),
        ("collafuse dis", {"disclosed"}),
    ],
)
def test_commands_and_settings_are_completed(words: str, expected: set[str]) -> None:
    environment = {"_COLLAFUSE_COMPLETE": "bash_complete", "COMP_WORDS": words}
    completed = subprocess.run(
        [sys.executable, "-c", "from simulations.console import main; main(prog_name='collafuse')"],
        cwd=PROJECT,
        env=os.environ | environment | {"COMP_CWORD": str(len(words.split()) - 1)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert {line.split(",", 1)[1] for line in completed.stdout.splitlines() if "," in line} == expected


def test_the_wheel_works_outside_of_the_repository(tmp_path: Path) -> None:
    subprocess.run(["uv", "build", "-q", "--wheel", "-o", str(tmp_path), str(PROJECT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        (points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "collafuse = simulations.console:main" in archive.read(points).decode()
    ended = call(
        *("partition", "fleet=paper7", "num_supernodes=2", "data.max_images=40", "output=dealt"),
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path / "site"),
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "dealt" / "partition.csv").is_file()
    where = [sys.executable, "-c", "import simulations, conf; print(simulations.__file__)"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    origin = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(origin.strip()).is_relative_to(tmp_path / "site")
