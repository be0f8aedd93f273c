"""The page: one HTML file that holds everything, with its figures and numbers beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from collafuse_flwr.core.atomic_io import as_file_name, atomic_write
from collafuse_flwr.core.text import number_of
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.report.aggregate import Section, sections
from simulations.report.figures import Drawn, draw_section
from simulations.report.findings import budget_statement, statements, warnings
from simulations.report.leakage import leakage
from simulations.report.load_runs import Run, collect
from simulations.report.tables import budget, clients, comparison, write_csv, write_markdown

#: Sentences that are shown without being unfolded.
FEW_STATEMENTS = 6
#: Bytes of all pictures of samples on a page, and the qualities of WebP (0..100) that are tried to keep to them.
SAMPLES_ROOM = 3e6
QUALITIES = (80, 60, 40, 20, 5)

#: Pictures in a run's folder, as `Drawn` has them.
OF_ONE_RUN = (
    (
        "pictures/overview.png",
        "Images",
        "Above, real images that no client trained on. In the rows below each column is one sample, as the server "
        "hands it over and as the client finishes it: the less the client adds, the more the server can make alone.",
        False,
    ),
    (
        "pictures/curves.png",
        "Training, and quality of each client",
        "Losses should have become flat; a client with few images has a larger distance also because it is measured on "
        "few.",
        True,
    ),
    (
        "attacks/leakage.png",
        "Attacks",
        "An attack learns something of a client where its mark is apart from the black line, which is a guess.",
        True,
    ),
)


def write_report(folders: Sequence[Path], output: Path) -> Path:
    """Compare the finished runs in some folders; the path of the page.

    Raises:
        UserError: there is none, or one cannot be read.
    """
    return write_page(collect(folders), output)


def write_page(runs: Sequence[Run], output: Path) -> Path:
    """Write the page about some runs, its figures and its numbers into a folder; the path of the page."""
    compared = sections(runs)
    room = SAMPLES_ROOM / sum(len(section.rows) for section in compared)
    shown = [
        _section(section, output, f"{number}-{_plain(section)}", room) for number, section in enumerate(compared, 1)
    ]
    attacked = [leakage(section) for section in compared]
    numbers = [path.name for path in (*write_csv(compared, output), write_markdown(compared, attacked, output))]
    environment = Environment(
        loader=PackageLoader("simulations.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = output / "report.html"
    with atomic_write(page) as temporary:
        html = environment.get_template("page.html").render(sections=shown, numbers=numbers)
        temporary.write_text(html, encoding="utf-8")
    return page


def _section(section: Section, output: Path, stem: str, room: float) -> dict[str, Any]:
    """What the template shows of one data set; `room`: bytes for each picture of samples."""
    only = section.runs[0] if len(section.rows) == 1 else None
    samples = [(row, RunLayout(row.runs[0].folder).pictures / "samples.png") for row in section.rows]
    return {
        "dataset": section.dataset,
        "runs": number_of(len(section.runs), "run"),
        "common": ", ".join(f"{name} = {value}" for name, value in section.common.items()),
        "warnings": warnings(section),
        "statements": statements(section),
        "few": FEW_STATEMENTS,
        "comparison": comparison(section),
        "leakage": leakage(section),
        "budget": budget(section),
        "budget_statement": budget_statement(section),
        "clients": clients(only) if only else None,
        "figures": [(figure, _embedded(figure.path)) for figure in _figures(section, output, stem)],
        "samples": [
            {"caption": f"{row.label}, seed {row.runs[0].config.run.seed}", "source": _thumbnail(path, room)}
            for row, path in samples
            if path.is_file()
        ],
    }


def _figures(section: Section, folder: Path, stem: str) -> list[Drawn]:
    """A section's figures: drawn as PNGs where rows can be compared, or those that its one run has itself."""
    if len(section.rows) > 1:
        return draw_section(section, folder, stem)
    run = section.runs[0].folder
    drawn = [Drawn(caption, to_see, run / path, is_chart) for path, caption, to_see, is_chart in OF_ONE_RUN]
    return [figure for figure in drawn if figure.path.is_file()]


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _thumbnail(path: Path, room: float) -> str:
    """A picture of samples in at most `room` bytes, as long as that takes no more than the roughest quality.

    The whole one is in the run's folder.
    """
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    for quality in QUALITIES:
        buffer = BytesIO()
        picture.save(buffer, "WEBP", quality=quality)
        if buffer.tell() <= room:
            break
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _plain(section: Section) -> str:
    return as_file_name(section.runs[0].config.data.name)
