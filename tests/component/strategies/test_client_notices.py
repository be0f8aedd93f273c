"""What the operator is to hear of those who take part."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.component.strategies.test_client_manager import HELLO, FakeFederation


@pytest.mark.parametrize(
    ("strategy", "most", "claimed", "said"),
    [
        ("collafuse", 1.0, 3_000, True),
        ("fedavg", 1.0, 3_000, True),
        # Three quarters of all, which is 9 for each of the others, is not more than three quarters.
        ("fedavg", 1.0, 54, False),
        ("fedavg", 1.0, 55, True),
        # It counts for half already, or for nobody else.
        ("fedavg", 0.5, 3_000, False),
        ("local", 1.0, 3_000, False),
    ],
)
def test_the_operator_hears_of_a_client_that_counts_for_nearly_all(
    strategy: str, most: float, claimed: int, said: bool
) -> None:
    """Nothing verifies the number of images, which weights every average; a claim of 10^8 passed in silence."""
    federation = FakeFederation(3, strategy=strategy, federation__max_client_weight=most)
    cut = federation.config.cuts_of(0)[0]
    federation.says = {c: replace(HELLO, partition_id=c, cut_step=cut) for c in range(3)}
    federation.says[1] = replace(federation.says[1], num_images=claimed)
    federation.connect(0, 1, 2)
    federation.register_new()
    notices = federation.client_manager.new_notices()
    assert [notice.partition(" has ")[0] for notice in notices] == ["client 1 says that it"] * said
    federation.client_manager.client_infos[2] = replace(federation.client_manager.client_infos[2], num_images=10)
    assert federation.client_manager.new_notices() == []
