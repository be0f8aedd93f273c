"""Settings of starts, public images and hand-overs that do not go together."""

from __future__ import annotations

from typing import Any

import pytest

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError


@pytest.mark.parametrize(
    ("given", "name", "reason"),
    [
        ({"public.dataset_path": "/data"}, "public.dataset_path", "its default when `public.dataset` is none"),
        ({"public.max_images": 5}, "public.max_images", "its default when `public.dataset` is none"),
        ({"start_from": "/run", "client.model": "nano"}, "client.model", "same when `start_from` names"),
        ({"client.range": "all", "cut_ratio": 0.4, "sampling.handover_ratio": 0.3}, "sampling.handover_ratio", "above"),
        (
            {"client.range": "all", "upload.noise": "official", "sampling.handover_ratio": 0.5},
            "sampling.handover_ratio",
            "official",
        ),
        (
            {
                "client.range": "all",
                "cut.policy": "adaptive",
                "cut.choices": [0.6, 0.8],
                "cut_ratio": 0.1,
                "sampling.handover_ratio": 0.5,
                "devices.profiles": "paper7",
            },
            "sampling.handover_ratio",
            "above the cut",
        ),
        ({"sampling.handover_ratio": 0.5}, "sampling.handover_ratio", "unless `client.range` is all"),
        ({"client.trained_parts": "decoder", "client.init_from": "random"}, "client.trained_parts", "start_from"),
        ({"client.trained_parts": "decoder", "cut_ratio": 1.0}, "client.trained_parts", "fixed cuts"),
        ({"client.trained_parts": "decoder", "strategy": "fedavg"}, "client.trained_parts", "start_from"),
        (
            {
                "client.trained_parts": "decoder",
                "strategy": "fedavg",
                "start_from": "/run",
                "averaging.clip_norm": 1.0,
                "averaging.noise": "client",
                "averaging.noise_multiplier": 1.0,
            },
            "client.trained_parts",
            "averaging.noise",
        ),
        ({"client.trained_parts": "decoder", "client.model": "nano"}, "client.trained_parts", "their network"),
        ({"strategy": "local", "public.dataset": "digits"}, "public.dataset", "does not read it"),
    ],
)
def test_a_start_or_hand_over_that_would_change_nothing_is_refused(
    given: dict[str, Any], name: str, reason: str
) -> None:
    with pytest.raises(SettingError, match=reason) as refused:
        Config.from_flat(given)
    assert refused.value.name == name
