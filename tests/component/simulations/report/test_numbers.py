"""The table as it is read, its CSV files, and the sentences: right numbers, units and marks."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from simulations.report.aggregate import Section, sections
from simulations.report.findings import budget_statement, statements, warnings
from simulations.report.metrics import UP
from simulations.report.tables import budget, comparison, write_csv, write_markdown
from tests.component.simulations.report.fakes import CLIENTS, fake


@pytest.fixture
def section(tmp_path: Path) -> Section:
    """Three cuts and FedAvg with two seeds."""
    runs = [fake(tmp_path, cut_ratio=cut, seed=seed) for cut in (0.0, 0.4, 1.0) for seed in (0, 1)]
    return sections([*runs, *(fake(tmp_path, "fedavg", seed=seed, fd=2.1 + seed / 5) for seed in (0, 1))])[0]


def column(section: Section, title: str) -> list[str]:
    table = comparison(section)
    place = next(i for i, header in enumerate(table.header) if header.startswith(title))
    return [("*" if row[place].best else "") + row[place].text for row in table.rows]


def test_each_column_has_its_unit_its_digits_and_its_best(section: Section) -> None:
    assert column(section, "seeds") == ["2"] * 4
    assert column(section, "FD ↓") == ["*1.55 ± 0.07", "2.19 ± 0.07", "5.55 ± 0.07", "2.20 ± 0.14"]
    assert column(section, "TSTR ↑")[0] == "*0.969 ± 0.001"
    assert column(section, "SNR [dB] ↓") == ["clean images", "4.0", "*nothing", "weights"]
    assert column(section, "bits ↓") == ["clean images", "24.0", "*nothing", "weights"]
    assert column(section, "re-identified ↓") == ["1.000", "*0.600", "nothing", "weights"]
    assert column(section, "up per client [MB] ↓") == ["0.0160", "0.0160", "*0", "25.0"]
    assert column(section, "training per client [GFLOP] ↓") == ["*0", "360", "900", "900"]
    assert column(section, "worst client's FD")[1] == "5.2 ± 0.1"


@pytest.mark.parametrize(
    ("value", "text"), [(999.96, "1000"), (25.04, "25.0"), (0.0, "0"), (0.00123456, "0.00123"), (1.0, "1.00")]
)
def test_three_digits_without_an_exponent(value: float, text: str) -> None:
    assert UP.text(value) == text


def test_what_was_not_measured_is_a_dash(tmp_path: Path) -> None:
    run = fake(tmp_path)
    del run.summary["pooled"]["fd"]
    run.summary["pooled"]["reid"] = None
    (section,) = sections([run])
    assert column(section, "FD ↓") == ["-"]
    assert column(section, "re-identified") == ["-"]


def test_published_measures_are_columns_only_where_a_run_has_them(tmp_path: Path) -> None:
    runs = [fake(tmp_path, cut_ratio=cut) for cut in (0.2, 0.4)]
    runs[1].summary["pooled"] |= {"fid": 31.4159, "kid": 0.01234, "clip_fid": None}
    (section,) = sections(runs)
    assert column(section, "FID ↓") == ["-", "31.42"]
    assert column(section, "KID ↓") == ["-", "0.0123"]
    titles = comparison(section).header
    assert titles.index("FID ↓") == titles.index("TSTR ↑") + 1
    assert not any(title.startswith("CLIP-FID") for title in titles)
    assert not {"FID ↓", "KID ↓"} & set(comparison(sections(runs[:1])[0]).header)
    write_csv([section], tmp_path)
    assert [row["fid"] for row in rows_of(tmp_path / "table.csv")] == ["", "31.4159"]


def test_the_budget_is_shown_and_judged(tmp_path: Path, section: Section) -> None:
    assert [[cell.text for cell in row[2:]] for row in budget(section).rows] == [
        ["0", "100", "100"],
        ["40.0", "60.0", "100"],
        ["100", "0", "100"],
        ["100", "0", "100"],
    ]
    assert "are equal within 0.0%" in budget_statement(section)
    runs = [fake(tmp_path / "other", cut_ratio=cut) for cut in (0.2, 0.4)]
    runs[0].summary["server"]["image_updates"] *= 2
    assert "are not equal: 100000 to 180000." in budget_statement(sections(runs)[0])


def test_sentences_say_where_splitting_wins_and_where_not(section: Section) -> None:
    assert statements(section) == [
        "collafuse, c = 0.4: 8 of 8 clients have a lower FD than alone (2 seeds); "
        "FD 2.19 against 1.55 of centralized, lower for 0 of 2 seeds; "
        "FD 2.19 against 2.20 of fedavg, lower for 1 of 2 seeds; "
        "0.064% of fedavg's upload and 40% of its client training."
    ]


def test_only_the_same_seeds_are_compared(tmp_path: Path) -> None:
    runs = [
        fake(tmp_path, seed=0),
        fake(tmp_path, seed=1),
        fake(tmp_path, "local", seed=1),
        fake(tmp_path, "local", seed=2),
    ]
    runs[2].clients[0]["fd"] = 0.0
    section = sections(runs)[0]
    (warning,), (said,) = warnings(section), statements(section)
    assert warning == "Beware: not all of the 3 seeds are there of collafuse, c = 0.2; collafuse, c = 1 (local)."
    assert said == f"collafuse, c = 0.2: {CLIENTS - 1} of {CLIENTS} clients have a lower FD than alone (1 seed)."


def test_many_clients_gain_with_an_interval_over_clients(tmp_path: Path) -> None:
    """Three seeds of four clients: what is one alone's FD is halved for nine of twelve, and doubled for the others."""
    runs = [fake(tmp_path, strategy, seed=seed) for seed in range(3) for strategy in ("collafuse", "local")]
    for split, alone in zip(runs[::2], runs[1::2], strict=True):
        for own, its in zip(split.clients, alone.clients, strict=True):
            own["fd"] = its["fd"] * (2 if own["client"] == 0 else 0.5)
    (said,) = statements(sections(runs)[0])
    pattern = (
        r"collafuse, c = 0\.2: 9 of 12 clients have a lower FD than alone \(3 seeds, (\d+)% to (\d+)% by bootstrap\); "
        r"the median client's is 0\.50 times that, 0\.50 to (0\.50|1\.25|2\.00)\."
    )
    interval = re.fullmatch(pattern, said)
    assert interval is not None, said
    low, high = int(interval[1]), int(interval[2])
    # The binomial's 95 % interval of 9 in 12.
    assert 42 <= low <= 58
    assert 92 <= high <= 100


def test_one_alone_is_the_same_however_the_others_begin_and_hand_over(tmp_path: Path) -> None:
    runs = [fake(tmp_path, "local")]
    hand_overs: list[dict[str, Any]] = [{"client.range": "all", "sampling.handover_ratio": at} for at in (0.0, 0.8)]
    runs += [fake(tmp_path, **given) for given in hand_overs]
    said = statements(sections(runs)[0])
    assert len(said) == 2
    assert all("clients have a lower FD than alone (1 seed)" in sentence for sentence in said)


def test_without_baselines_nothing_is_said(tmp_path: Path) -> None:
    assert statements(sections([fake(tmp_path)])[0]) == []


def rows_of(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_files_hold_everything(section: Section, tmp_path: Path) -> None:
    write_csv([section], tmp_path)
    table, runs, clients = (rows_of(tmp_path / f"{name}.csv") for name in ("table", "runs", "clients"))
    assert (len(table), len(runs), len(clients)) == (4, 8, 8 * CLIENTS)
    assert (table[1]["variant"], table[1]["cut"], table[1]["seeds"]) == ("collafuse", "0.4", "2")
    assert float(table[1]["fd"]) == pytest.approx(2.19)
    assert float(table[1]["fd_std"]) == pytest.approx(0.1 / 2**0.5)
    assert {row["released"] for row in runs} == {"clean images", "", "nothing", "weights"}
    assert {(row["seed"], row["client"]) for row in clients} == {
        (str(s), str(c)) for s in (0, 1) for c in range(CLIENTS)
    }


def test_the_table_as_markdown_says_what_the_page_says(section: Section, tmp_path: Path) -> None:
    lines = write_markdown([section], [None], tmp_path).read_text().splitlines()
    table = comparison(section)
    assert lines[0] == f"### {section.dataset}"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0] == [title.strip() for title in table.header]
    assert [[cell.strip("*") for cell in row] for row in rows[2:]] == [[c.text for c in row] for row in table.rows]
    assert [[cell.startswith("**") for cell in row] for row in rows[2:]] == [[c.best for c in r] for r in table.rows]
