"""The page is one well-formed file that needs nothing else, and the command tells mistakes in one line."""

from __future__ import annotations

import base64
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from simulations.report.__main__ import main
from simulations.report.page import write_page
from tests.component.simulations.report.fakes import attacked, fake

VOID = {"meta", "img"}


class Page(HTMLParser):
    """The tags of a page, which must be closed in turn; its images, its words and what is bold."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.images: list[Image.Image] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.open += [] if tag in VOID else [tag]
        for name, value in attrs:
            if name in ("src", "href"):
                kind, _, data = str(value).partition(",")
                self.links.append(kind)
                self.images.append(Image.open(BytesIO(base64.b64decode(data))))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def call(*arguments: str) -> int:
    """The command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["report", *arguments])
        return main()


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    runs = [fake(tmp_path, cut_ratio=cut, seed=seed) for cut in (0.0, 0.4, 1.0) for seed in (0, 1)]
    runs += [fake(tmp_path, "fedavg"), fake(tmp_path, dataset="mnist", dataset_path="<script>")]
    output = tmp_path / "page"
    page = Page(write_page(runs, output))
    assert set(page.links) == {"data:image/png;base64"}
    assert not page.tags & {"script", "link", "iframe"}
    # Three figures of each data set, and the samples of each row.
    assert len(page.images) == 2 * 3 + 5
    assert {path.name for path in output.iterdir()} == {
        *(f"{number}-{kind}.png" for number in ("1-digits", "2-mnist") for kind in ("quality", "disclosure", "cost")),
        *("report.html", "runs.csv", "clients.csv", "table.csv", "table.md"),
    }
    for words in ("mnist <script>", "collafuse, c = 1 (local)", "fedavg, seed 0", "clean images", "weights"):
        assert words in page.words


def test_attacks_are_shown_beside_what_a_guess_would_reach(tmp_path: Path) -> None:
    runs = [fake(tmp_path, cut_ratio=cut, seed=seed) for cut in (0.2, 0.4, 1.0) for seed in (0, 1)]
    for run in runs[:4]:
        attacked(run)
    output = tmp_path / "page"
    page = Page(write_page(runs, output))
    assert len(page.images) == 4 + 3
    for words in ("Attacks", "re-id, all releases", "bits, I-MMSE", "no information"):
        assert words in page.words
    with Image.open(output / "1-digits-leakage.png") as picture:
        assert min(picture.size) > 300
    assert {"attacks.csv", "table.md"} <= {path.name for path in output.iterdir()}
    assert "#### Attacks" in (output / "table.md").read_text()


@pytest.mark.parametrize("strategies", [["collafuse"], ["fedavg"], ["local"]], ids=str)
def test_a_page_about_one_run_of_any_kind(tmp_path: Path, strategies: list[str]) -> None:
    run = fake(tmp_path, strategies[0])
    (run.folder / "pictures" / "samples.png").unlink()
    for client in run.clients:
        client["fd"] = None
    for name in ("fd", "tstr", "fd_real", "tstr_real", "reid", "reid_chance"):
        run.summary["pooled"].pop(name)
    assert len(Page(write_page([run], tmp_path / "page")).images) == 3


def test_the_command_finds_runs_in_several_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, cut in (("a=1", 0.2), ("b b", 0.4)):
        fake(tmp_path / place, cut_ratio=cut)
    assert call(f"runs={tmp_path / 'a=1'},{tmp_path / 'b b'}") == 0
    page = tmp_path / "a=1" / "report" / "report.html"
    assert capsys.readouterr().out == f"The report is {page}\n"
    assert {"collafuse, c = 0.2", "collafuse, c = 0.4"} <= set(Page(page).words)
    # A second report takes the first one's place, and does not take it for a run.
    assert call(f"runs={tmp_path / 'a=1'}") == 0
    assert "collafuse, c = 0.4" not in Page(page).words
    assert call(f"runs={tmp_path}", f"output={tmp_path / 'c'}") == 0
    assert (tmp_path / "c" / "report.html").is_file()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("runs=", "`runs` = '' is not allowed: folders that hold finished runs"),
        ("runs=/absent", "`runs` = '/absent' is not allowed"),
        ("run=/absent", "`run` is not a setting; did you mean `runs`"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str, told: str
) -> None:
    assert call(wrong, f"output={tmp_path / 'out'}") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert told in line
    assert not (tmp_path / "out").exists()
