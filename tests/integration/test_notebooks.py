"""The notebooks of examples/ run from top to bottom, each in a new folder, and show pictures."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from simulations.runners.flwr import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "examples" / "notebooks").glob("*.ipynb"))
#: Seconds for a cell, beside whatever else the machine does.
PATIENCE = 1800

pytestmark = [
    # Kernels, and the processes that they start.
    pytest.mark.usefixtures("warm"),
    # The client of a kernel leaves its sockets and its event loop to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq", "ignore::DeprecationWarning:jupyter_client"),
]


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["1_first_run", "2_your_own_images", "3_several_hospitals"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    notebook = nbformat.reads(path.read_text(), as_version=4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") for cell in notebook.cells), "as committed, without what a machine made of it"
    client = NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3")
    client.execute(cwd=str(tmp_path))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    said = "".join(output.get("text", "") for output in outputs)
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    assert pictures == {"1_first_run": 4, "2_your_own_images": 3, "3_several_hospitals": 2}[path.stem]
    if path.stem == "2_your_own_images":
        assert "broken.png" in said
    if path.stem == "3_several_hospitals":
        # The second hospital's policy kept it out of the first run, and it took part in the second.
        ledger = (tmp_path / "hospital-1" / "state" / "ledger.jsonl").read_text()
        assert "`min_cut_ratio` = 0.6" in ledger
        assert '"kind": "release"' in ledger
