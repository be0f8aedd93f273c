"""Attacks become rows: the most exposed client, mean and spread over seeds, and the value of a guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from collafuse_flwr.core.errors import UserError
from simulations.report.aggregate import sections
from simulations.report.leakage import leakage, leaks
from tests.component.simulations.report.fakes import attacked, fake


def test_each_figure_is_that_of_the_client_about_which_it_tells_most(tmp_path: Path) -> None:
    runs = [attacked(fake(tmp_path, cut_ratio=cut, seed=seed)) for cut in (0.2, 0.4) for seed in (0, 1)]
    (section,) = sections([*runs, fake(tmp_path, "fedavg")])
    table = leakage(section)
    assert table is not None
    assert [leak.measure.key for leak in leaks(section)] == ["snr_db", "bits", "bits_denoised", "psnr_wiener", "reid"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["collafuse, c = 0.2", "2", "12.0", "32.0", "24.0", "18.5 ± 0.7", "0.800"],
        ["collafuse, c = 0.4", "2", "4.0", "24.0", "18.0", "16.5 ± 0.7", "0.600"],
        ["no information", "", "-", "0.0", "0.0", "11.0", "0.010"],
    ]
    assert not any(cell.best for row in table.rows for cell in row)


def test_without_attacks_there_is_no_table(tmp_path: Path) -> None:
    (section,) = sections([fake(tmp_path)])
    assert leakage(section) is None
    assert leaks(section) == []


@pytest.mark.parametrize("damage", ["{", "[]", "{}"])
def test_a_damaged_file_is_refused_with_its_path(tmp_path: Path, damage: str) -> None:
    run = fake(tmp_path)
    (run.folder / "attacks").mkdir()
    (run.folder / "attacks" / "attacks.json").write_text(damage)
    with pytest.raises(UserError, match=r"attacks\.json cannot be read"):
        _ = run.attacks
