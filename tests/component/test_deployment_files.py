"""docs/deployment.md and deploy/: every command parses, and units and container files say what the page says.

`pytest -m faults` runs them.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest
import typer
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

from simulations.runners.flwr import REPOSITORY
from tests.faults.sites import PAGE
from tests.faults.units import command, read_environment, read_unit
from tests.pages import Block, shell_blocks, variables

with warnings.catch_warnings():
    # Flower's command line uses what its typer calls deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from flwr.cli.app import app as flwr

DEPLOY = REPOSITORY / "deploy"
UNITS = {path.stem: path for path in (DEPLOY / "systemd").glob("*.service")}
#: Who runs the commands of a block; tests/faults/test_deployment_page.py has a machine for each.
READERS = {"environment", "all", "server", "client", "reviewer", "leaving", "trial", "upgrade"}
#: What must not be missing from a unit.
HARDENED = {
    "User": "collafuse",
    "UMask": "0077",
    "ProtectSystem": "strict",
    "ReadWritePaths": "/var/lib/collafuse",
    "ProtectHome": "true",
    "PrivateTmp": "true",
    "NoNewPrivileges": "true",
    "CapabilityBoundingSet": "",
    "Restart": "always",
}


def commands(text: str) -> list[list[str]]:
    """The words of each line, up to what is the shell's."""
    lines = re.sub(r"<<'?END'?\n.*?\nEND$", "", text.replace("\\\n", " "), flags=re.MULTILINE | re.DOTALL).splitlines()
    cut = [re.split(r" (?:[<>|&]|2>)", re.sub(r"\$\(.*\)", "X", line))[0] for line in lines]
    return [words for line in cut if (words := shlex.split(re.sub(r"\$\w*PORT\b", "8000", line), comments=True))]


def check_flwr(words: list[str]) -> None:
    """Hold a `flwr` command to the options and arguments that the installed one has."""
    parser: click.Command = typer.main.get_command(flwr)
    context = None
    while isinstance(parser, click.Group):
        context = click.Context(parser, parent=context)
        subcommand = parser.get_command(context, words[0])
        assert subcommand is not None, words
        parser, words = subcommand, words[1:]
    parser.make_context("flwr", [re.sub(r"^\$\(.*|^X$", "1", word) for word in words], parent=context)


@pytest.mark.parametrize("block", shell_blocks(PAGE), ids=lambda block: block.text.split("\n")[0][:40])
def test_a_block_of_commands_parses_and_names_options_that_exist(block: Block) -> None:
    assert block.info.removeprefix("sh ") in READERS
    checked = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    for words in commands(block.text):
        program, *given = words[words[0] == "until" :]
        if program == "flwr":
            check_flwr(given)
        elif program == "flower-superlink" and given != ["--version"]:
            _parse_args_run_superlink().parse_args(given)


def test_a_wrong_command_would_be_seen() -> None:
    with pytest.raises(click.UsageError):
        check_flwr(["supernode", "register", "--key", "x"])


def test_the_page_sets_each_variable_that_its_commands_use() -> None:
    defined = set(re.findall(r"^(?:export )?([A-Z_]+)=", variables(PAGE), re.MULTILINE)) | {"FLWR_HOME", "PATH"}
    used = {name for block in shell_blocks(PAGE) for name in re.findall(r"\$([A-Z_]+)", block.text)}
    assert used <= defined
    assert not {name for name in defined - {"FLWR_HOME", "PATH"} if PAGE.count(f"${name}") == 0}


def test_insecure_stands_in_the_trial_alone() -> None:
    before, trial = PAGE.split("\n## A trial without certificates\n")
    assert "--insecure" not in before
    assert "--insecure" not in trial.partition("\n## Containers")[2].partition("\n## What goes wrong")[0]
    for path in DEPLOY.rglob("*"):
        assert path.is_dir() or "insecure" not in path.read_text(), path


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_starts_its_program_with_options_that_exist(name: str) -> None:
    unit = read_unit(UNITS[name])
    assert HARDENED.items() <= unit.items()
    file = Path(unit["EnvironmentFile"])
    words = command(unit, read_environment(DEPLOY / "systemd" / file.name))
    assert words[:2] == ["/opt/collafuse/bin/python", "-m"]
    if words[2] == "simulations.superlink":
        assert words[3] == "--apps"
        given = _parse_args_run_superlink().parse_args(words[5:])
        assert given.enable_supernode_auth
        assert (given.host, given.insecure, given.runtime_dependency_install) == ("127.0.0.1", False, False)
    else:
        assert words[2] == "simulations.supernode"
        given = _parse_args_run_supernode().parse_args(words[3:])
        assert given.trusted_entities
        assert given.auth_supernode_private_key
        assert (given.host, given.insecure, given.runtime_dependency_install) == ("127.0.0.1", False, False)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_a_unit(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.service"
    path.write_text(UNITS[name].read_text().replace("/opt/collafuse/bin/python", sys.executable))
    checked = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def instructions() -> list[tuple[str, str]]:
    """The instructions of the container file."""
    lines = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ").splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line and line[0] != "#")]


def test_containers_run_as_a_user_and_hold_nothing_but_the_package() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    user, stages = "root", []
    for name, rest in instructions():
        if name == "FROM":
            stages.append(rest.partition(" AS ")[2])
        elif name == "USER":
            user = rest
        elif name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (REPOSITORY / source).exists()
                assert f"!{source}" in ignored, "it would not be sent to the builder"
        elif name == "ENTRYPOINT":
            assert user == "10001"
            assert json.loads(rest) == ["/opt/collafuse/bin/python", "-m", f"simulations.{stages[-1]}"]
    assert stages == ["wheel", "base", "superlink", "supernode"]
    assert "*" in ignored
