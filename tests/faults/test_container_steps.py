"""The steps of deploy/Containerfile by hand, below a scratch folder, as no container engine may be there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from simulations.runners.flwr import REPOSITORY
from tests.component.test_deployment_files import instructions

#: What a step needs of the image itself, or would change on this machine.
OF_THE_IMAGE = ("pip install", "useradd")


def run(command: list[str] | str, folder: Path) -> str:
    """Run a command in a folder, in an environment that says nothing of this checkout."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=folder,
        env=environment | {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def inside(root: Path, text: str) -> str:
    """Absolute paths of a step, below `root`."""
    for folder in ("/src", "/wheel", "/opt/collafuse"):
        text = text.replace(f" {folder}", f" {root}{folder}")
    return text


def test_the_steps_make_an_environment_that_starts_both_programs(tmp_path: Path) -> None:
    entrypoints, ran = [], []
    source = tmp_path / "src"
    source.mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            *files, target = rest.split()
            for file in files:
                if (REPOSITORY / file).is_dir():
                    shutil.copytree(REPOSITORY / file, source / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(REPOSITORY / file, source / target)
        elif name == "RUN" and not rest.startswith(OF_THE_IMAGE):
            # What has been downloaded before need not be again.
            run(inside(tmp_path, f" {rest}".replace(" --no-cache", "")), source)
            ran.append(rest.split()[1])
        elif name == "ENTRYPOINT":
            entrypoints.append(json.loads(rest))
    assert ran == ["build", "venv", "pip"]
    assert len(entrypoints) == 2
    for program, *arguments in entrypoints:
        # Installed from the wheel, outside of the repository.
        shown = run([f"{tmp_path}{program}", *arguments, "--help"], tmp_path / "elsewhere")
        assert "--insecure" in shown
        assert str(REPOSITORY) not in shown
    python = f"{tmp_path}/opt/collafuse/bin/python"
    where = run([python, "-c", "import collafuse_flwr; print(collafuse_flwr.__file__)"], tmp_path / "elsewhere")
    assert where.startswith(str(tmp_path))
