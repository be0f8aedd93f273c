from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collafuse_flwr.evaluation.gains import LEAST_RESAMPLED, ClientGains

DISTANCES = st.floats(0.1, 100)


def test_few_clients_are_counted_and_nothing_is_said_of_others() -> None:
    gains = ClientGains.of([(1.0, 2.0), (3.0, 2.0), (2.0, 2.0)])
    assert gains == ClientGains(better=1, clients=3, ratio=1.0)
    assert gains.sentence() == "1 of 3 clients have a lower FD than alone"
    assert gains.sentence("2 seeds") == "1 of 3 clients have a lower FD than alone (2 seeds)"
    assert "nothing follows" in gains.verdict()


@pytest.mark.parametrize(
    ("better", "said"),
    [(38, "collaboration pays"), (2, "do better alone"), (20, "may as well be alone")],
)
def test_the_verdict_is_the_intervals(better: int, said: str) -> None:
    """Of 40 clients: a share of 38 / 40 or of 2 / 40 is beyond doubt on one side of a half, that of 20 / 40 is not."""
    gains = ClientGains.of([(1.0, 2.0)] * better + [(3.0, 2.0)] * (40 - better))
    assert gains.better == better
    assert said in gains.verdict()
    share = gains.share_interval
    assert share is not None
    assert share[0] <= better / 40 <= share[1]
    # The normal interval of a share, which that of the bootstrap comes to.
    half = 1.96 * (better / 40 * (1 - better / 40) / 40) ** 0.5
    assert share == pytest.approx((max(0, better / 40 - half), min(1, better / 40 + half)), abs=0.04)


@given(st.lists(st.tuples(DISTANCES, DISTANCES), min_size=1, max_size=LEAST_RESAMPLED + 5))
def test_neither_order_nor_unit_matters(pairs: list[tuple[float, float]]) -> None:
    gains = ClientGains.of(pairs)
    turned = ClientGains.of(pairs[::-1])
    assert (turned.better, turned.clients, turned.ratio) == (gains.better, gains.clients, gains.ratio)
    assert ClientGains.of([(8 * own, 8 * alone) for own, alone in pairs]) == gains


def test_nobody_has_no_gain() -> None:
    with pytest.raises(ValueError, match="at least one client"):
        ClientGains.of([])
