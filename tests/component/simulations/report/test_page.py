"""The page is one well-formed file that needs nothing else, and the command tells mistakes in one line."""

from __future__ import annotations

import base64
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
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
        self.tags_in_order: list[str] = []
        self.images: list[Image.Image] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags_in_order.append(tag)
        self.open += [] if tag in VOID else [tag]
        for name, value in attrs:
            if name in ("src", "href"):
                kind, _, data = str(value).partition(",")
                self.links.append(kind)
                self.images.append(Image.open(BytesIO(base64.b64decode(data))))

    @property
    def tags(self) -> set[str]:
        return set(self.tags_in_order)

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
    assert set(page.links) == {"data:image/png;base64", "data:image/webp;base64"}
    assert not page.tags & {"link", "iframe"}
    # Its only script is its own, and what comes from a run is no markup.
    assert page.tags_in_order.count("script") == 1
    # Three figures of what can be compared, and the samples of each row.
    assert len(page.images) == 3 + 5
    assert {path.name for path in output.iterdir()} == {
        *(f"1-digits-{kind}.png" for kind in ("quality", "disclosure", "cost")),
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


# Nothing is known of what weights and activations disclose.
@pytest.mark.parametrize(("strategy", "figures"), [("collafuse", 3), ("local", 3), ("fedavg", 2), ("fedgan", 2)])
def test_a_page_about_runs_of_any_kind_that_measured_nothing(tmp_path: Path, strategy: str, figures: int) -> None:
    runs = [fake(tmp_path, strategy), fake(tmp_path, strategy, num_rounds=3)]
    for run in runs:
        (run.folder / "pictures" / "samples.png").unlink()
        for client in run.clients:
            client["fd"] = None
        for name in ("fd", "tstr", "fd_real", "tstr_real", "reid", "reid_chance"):
            run.summary["pooled"].pop(name)
    assert len(Page(write_page(runs, tmp_path / "page")).images) == figures
    assert Page(write_page(runs[:1], tmp_path / "one")).images == []


def test_a_page_about_one_run_has_its_own_pictures_and_its_clients(tmp_path: Path) -> None:
    run = fake(tmp_path, cut_ratio=0.4)
    for width, name in enumerate(("pictures/overview.png", "pictures/curves.png", "attacks/leakage.png"), 1):
        (run.folder / name).parent.mkdir(exist_ok=True)
        Image.new("L", (width, 1)).save(run.folder / name)
    path = write_page([run], tmp_path / "page")
    page = Page(path)
    assert [picture.width for picture in page.images] == [1, 2, 3, 502]
    assert list(path.parent.glob("*.png")) == []
    for words in ("Clients", "re-identified ↓", "training [GFLOP] ↓", "4.14"):
        assert words in page.words
    # A dark page turns charts around, and no images.
    assert path.read_text().count('class="chart"') == 2
    text = " ".join(page.words)
    assert "1 run. " in text
    assert "against the cut ratio" not in text
    assert "are equal within" not in text


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
    ("wrong", "message"),
    [
        ("runs=", "`runs` = '' is not allowed: folders that hold finished runs"),
        ("runs=/absent", "`runs` = '/absent' is not allowed"),
        ("run=/absent", "`run` is not a setting; did you mean `runs`"),
    ],
)
def test_a_mistake_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str, message: str
) -> None:
    assert call(wrong, f"output={tmp_path / 'out'}") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_strategies_without_a_cut_have_no_axis_of_cuts(tmp_path: Path) -> None:
    gans = [fake(tmp_path, name, seed=seed) for name in ("fedgan", "mdgan") for seed in (0, 1)]
    said = " ".join(Page(write_page(gans, tmp_path / "page")).words)
    assert "A bar for each strategy" in said
    assert "against the cut ratio" not in said


def test_many_sentences_are_folded_and_few_are_not(tmp_path: Path) -> None:
    runs = [fake(tmp_path, cut_ratio=cut) for cut in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0)]
    assert "<details>" in write_page(runs, tmp_path / "many").read_text()
    few = [run for run in runs if run.config.cut.cut_ratio in {0.1, 0.2, 1.0}]
    assert "<details open>" in write_page(few, tmp_path / "few").read_text()


def test_a_page_of_a_hundred_runs_stays_small(tmp_path: Path) -> None:
    """Samples of noise in colour, which no format can compress, are the worst that there is."""
    noise = np.random.default_rng(0).integers(0, 256, (342, 342, 3), dtype=np.uint8)
    runs = [fake(tmp_path, name, cut_ratio=c / 51, seed=0) for name in ("collafuse", "hybrid") for c in range(1, 51)]
    for run in runs:
        Image.fromarray(noise).save(run.folder / "pictures" / "samples.png")
    page = write_page(runs, tmp_path / "page")
    assert page.stat().st_size < 5e6
    assert len(Page(page).images) == 3 + 100
