"""What cuts tell without a run: the numbers that the leakage card of a run would show."""

from __future__ import annotations

import pytest

from collafuse_flwr.config.config import Config
from simulations.bench import disclosure
from tests.commands import refused

SETTINGS = {
    "num_supernodes": 1,
    "partition": "iid",
    "data.max_images": 200,
    "diffusion.schedule": "linear",
    "diffusion.timesteps": 1000,
}


def test_more_noise_tells_less_and_more_releases_tell_more() -> None:
    measures = disclosure.measure(Config.from_flat(SETTINGS), [0.2, 0.5, 0.9], [1, 20])
    low, middle, high = measures["cuts"]
    assert (measures["candidates"], measures["shadows"]) == (160, 40)
    assert [row["snr_db"] for row in measures["cuts"]] == pytest.approx([2.9, -10.7, -35.6], abs=0.05)
    assert low["bits"] > middle["bits"] > high["bits"] > 0
    assert low["psnr_wiener"] > middle["psnr_wiener"] > measures["guess"]["psnr"] - 0.5
    assert measures["guess"]["reid"] == 1 / 160 < middle["reid_1"] < middle["reid_20"] <= 1
    # Images of 64 values without clipping: C = 8.
    assert low["dp_mu"] == pytest.approx(2 * 8 * 10 ** (low["snr_db"] / 20))


def test_the_table_ends_with_what_a_guess_would_reach(capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"{name}={value}" for name, value in SETTINGS.items()]
    assert disclosure.main([*given, "cuts=0.5", "releases=1"]) == 0
    header, _, row, guess = capsys.readouterr().out.splitlines()
    assert header == "| cut | snr_db | bits | psnr_closed_form | psnr_wiener | reid_1 | dp_mu | dp_epsilon |"
    assert row.startswith("| 0.5 | -10.7 | ")
    assert guess.startswith("| guess among 160 |  | 0 | ")
    assert {line.count("|") for line in (header, row, guess)} == {9}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("cuts=0", "`cuts` = '0' is not allowed"),
        ("releases=1.5", "`releases` = '1.5' is not allowed"),
        ("cut_ratio=2", "`cut_ratio` = 2 is not allowed"),
    ],
)
def test_a_mistake_is_refused_in_one_line(wrong: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert disclosure.main([wrong]) == 2
    assert message in refused(capsys)
