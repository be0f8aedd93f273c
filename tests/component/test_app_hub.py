"""What Flower's app hub takes: its own checks pass on the files that `flwr app publish` would send."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate

from simulations.runners.flwr import REPOSITORY

#: Flower's own reading of .gitignore.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the repository, as a clone has them."""
    folder = tmp_path_factory.mktemp("hub") / "collafuse-flwr"
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("THE APP HUB'S CHECKS ARE SKIPPED: this is no clone of the repository")
    for name in listed.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, folder / name)
    return folder


def test_its_metadata_and_files_are_accepted(app: Path) -> None:
    config, warnings = load_and_validate(app / "pyproject.toml", check_module=False)
    assert warnings == []
    # The package has a function of the module's name.
    publish = importlib.import_module("flwr.cli.app_cmd.publish")
    publish._validate_app_name(app.name, "the folder")
    publish._validate_description(config["project"]["description"])
    publish._validate_files(publish._collect_file_paths(app))


def test_the_app_that_nodes_get_has_its_licence_and_settings_files_but_no_tests(app: Path) -> None:
    names = zipfile.ZipFile(BytesIO(build_fab_from_disk(app))).namelist()
    assert {"LICENSE", "README.md", "pyproject.toml", "collafuse_flwr/client_app.py"} <= set(names)
    parts = {Path(name).parts[0] for name in names if "/" in name}
    assert parts == {".info", "collafuse_flwr", "conf", "simulations", "strategies"}
