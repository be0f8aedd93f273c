"""Compare finished runs: `python -m simulations.report runs=FOLDER[,FOLDER...] [output=FOLDER]`.

Each folder is a run, or is searched for runs. The page, report.html, needs nothing but a browser; its figures
and numbers are beside it. Without `output` they are in `report` below the first of the folders.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from collafuse_flwr.core.errors import SettingError
from simulations.cli import entry
from simulations.report.page import write_report


def _act(settings: DictConfig) -> None:
    folders = [Path(part.strip()).absolute() for part in str(settings["runs"]).split(",") if part.strip()]
    if not folders:
        raise SettingError("runs", "", "folders that hold finished runs, separated by commas")
    output = Path(str(settings["output"])).absolute() if settings["output"] else folders[0] / "report"
    if output.is_file():
        raise SettingError("output", str(output), "a folder")
    print(f"The report is {write_report(folders, output)}")


main = entry(_act, "report", usage=f"{__doc__}")

if __name__ == "__main__":
    sys.exit(main())
