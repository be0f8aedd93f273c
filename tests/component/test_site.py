"""The site of docs/ is built without a warning, and has every page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=PROJECT, env=quiet, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


def test_every_page_is_there_and_in_the_navigation(site: Path) -> None:
    pages = {path.stem for path in (PROJECT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}
    navigation = (PROJECT / "mkdocs.yml").read_text()
    assert [name for name in sorted(pages) if f": {name}.md" not in navigation] == []


def test_commands_are_commands_and_signatures_come_from_the_code(site: Path) -> None:
    # A fence that says where its command runs is none for Markdown alone.
    assert '<h2 id="client">' in (site / "deployment.html").read_text()
    reference = (site / "api.html").read_text()
    for name in ("simulations.api.train", "strategies.base.BaseStrategy.connect", "collafuse_flwr.evaluation.gains"):
        assert f'id="{name}"' in reference
    assert "the run failed" in reference, "what `train` raises"


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    page = (site / "index.html").read_text()
    assert not any(f'{attribute}="http' in page for attribute in ("src", 'rel="stylesheet" href'))
    assert "fonts.googleapis.com" not in page
