"""Settings of a GAN that do not go together."""

from __future__ import annotations

import pytest

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError

CRITERION, TARGET = "cut.criterion", "cut.target"
SCALE = "sampling.guidance_scale"
NUMBERS = "a list of numbers, [0.1,0.2]"


CUTS, MIN_CUT = "split_gan.client_cuts", "split_gan.min_cut"
FOUR_DIGITS = "is not allowed: four digits, as 0010"


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        (
            {"data.conditioning": "none"},
            "`data.conditioning` = 'none' is not allowed: classes when `strategy` is a GAN",
        ),
        (
            {"data.conditioning": "attributes"},
            "`data.conditioning` = 'attributes' is not allowed: classes when `strategy` is a GAN",
        ),
        (
            {"clustering.num_clusters": 4},
            "`clustering.num_clusters` = 4 is not allowed: at most `num_supernodes` = 3",
        ),
        ({"strategy": "mdgan", "mdgan.k": 4}, "`mdgan.k` = 4 is not allowed: at most `num_supernodes` = 3"),
        (
            {MIN_CUT: "0020"},
            "`split_gan.min_cut` = '0020' is not allowed: digits from (0, 0, 0, 0) to (1, 1, 1, 1) when `gan.depth` "
            "is 1",
        ),
        (
            {"gan.depth": 2, MIN_CUT: "0002"},
            "`split_gan.min_cut` = '0002' is not allowed: digits from (0, 0, 0, 0) to (2, 1, 2, 1) when `gan.depth` "
            "is 2",
        ),
        (
            {"split_gan.replan_rounds": 1},
            "`split_gan.replan_rounds` = 1 is not allowed: 0 unless cuts are planned: with `devices.profiles`, by the",
        ),
        (
            {"split_gan.replan_rounds": 1, "devices.profiles": "paper7", CUTS: "0010"},
            "`split_gan.replan_rounds` = 1 is not allowed: 0 unless cuts are planned",
        ),
        (
            {"split_gan.replan_rounds": 1, "devices.profiles": "paper7", "cut_planner.algorithm": "genetic"},
            "`split_gan.replan_rounds` = 1 is not allowed: 0 unless cuts are planned",
        ),
        ({MIN_CUT: "001"}, f"`split_gan.min_cut` = '001' {FOUR_DIGITS}"),
        ({MIN_CUT: ""}, f"`split_gan.min_cut` = '' {FOUR_DIGITS}"),
        ({MIN_CUT: "-010"}, f"`split_gan.min_cut` = '-010' {FOUR_DIGITS}"),
        ({MIN_CUT: ["0010"]}, "`split_gan.min_cut` = ['0010'] is not allowed: text"),
        ({CUTS: "001"}, f"`split_gan.client_cuts` = '001' {FOUR_DIGITS}"),
        ({CUTS: "00100"}, f"`split_gan.client_cuts` = '00100' {FOUR_DIGITS}"),
        ({CUTS: "0x10"}, f"`split_gan.client_cuts` = '0x10' {FOUR_DIGITS}"),
        ({CUTS: 8}, f"`split_gan.client_cuts` = '8' {FOUR_DIGITS}"),
        ({CUTS: ["0010", "", "0010"]}, f"`split_gan.client_cuts` = '' {FOUR_DIGITS}"),
        ({CUTS: "0010,0010,1111"}, f"`split_gan.client_cuts` = '0010,0010,1111' {FOUR_DIGITS}"),
        (
            {CUTS: ["0010", "1111"]},
            "`split_gan.client_cuts` = ['0010', '1111'] is not allowed: four digits, or a list of 3 times four",
        ),
        (
            {CUTS: '["0010","1111"]'},
            "`split_gan.client_cuts` = ['0010', '1111'] is not allowed: four digits, or a list of 3 times four",
        ),
        ({CUTS: ["0010", None, "1111"]}, "`split_gan.client_cuts` = ['0010', None, '1111'] is not allowed: text, or"),
        ({CUTS: "0020"}, "`split_gan.client_cuts` = '0020' is not allowed: digits from (0, 0, 0, 0) to (1, 1, 1, 1)"),
        (
            {CUTS: ["0011", "0010", "0001"], MIN_CUT: "0010"},
            "`split_gan.client_cuts` = '0001' is not allowed: digits from (0, 0, 1, 0)",
        ),
        (
            {"split_gan.condition_at": "tail", "split_gan.factor_tail_gradients": True},
            "`split_gan.factor_tail_gradients` = True is not allowed: false when `split_gan.condition_at` is tail",
        ),
        ({"split_gan.ema": 1}, "`split_gan.ema` = 1 is not allowed: a number >= 0 and <= 0.9999"),
        ({"split_gan.loss": "r1"}, "`split_gan.loss` = 'r1' is not allowed: one of bce, hinge"),
        (
            {"model": "a.package:gan", "split_gan.spectral_norm": True},
            "`split_gan.spectral_norm` = True is not allowed: False, its default, as `model` = package.module:factory",
        ),
        (
            {"model": "a.package:gan", "split_gan.condition_at": "tail"},
            "`split_gan.condition_at` = 'tail' is not allowed: 'head', its default, as `model` = package.module",
        ),
        (
            {"strategy": "fedgan", "split_gan.loss": "hinge"},
            "`split_gan.loss` = 'hinge' is not allowed: 'bce', its default, as `strategy` = fedgan does not",
        ),
    ],
)
def test_a_gan_that_cannot_be_is_refused(flat: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        Config.from_flat({"strategy": "huscf_gan", "num_supernodes": 3} | flat)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_gan_that_can_be_is_allowed() -> None:
    gan = {"strategy": "huscf_gan", "num_supernodes": 3}
    Config.from_flat(gan | {CUTS: ["0010", "1111", "0110"], MIN_CUT: "0010", "clustering.num_clusters": 3})
    Config.from_flat(gan | {CUTS: "2121", MIN_CUT: "2121", "gan.depth": 2})
    Config.from_flat(gan | {CUTS: 1111, "gan.batch_size": 10**6})
    as_text = Config.from_flat(gan | {CUTS: '["0010","1111","0110"]'})
    assert as_text.split_gan.client_cuts == ("0010", "1111", "0110")
