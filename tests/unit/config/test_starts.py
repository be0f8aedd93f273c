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


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"cut_ratio": 0.0}, "0 when no client uploads at a cut above 0"),
        ({"cut_ratio": 1.0}, "0 when no client uploads at a cut above 0"),
        ({"upload.noise": "official"}, "0 when `upload.noise` is official"),
        ({"server.holdout_fraction": 0.1}, "0 when `server.holdout_fraction` = 0.1"),
        ({"deconvolution.iterations": 10}, "less than `num_rounds` = 10"),
        ({"strategy": "local"}, "does not read it"),
        ({"strategy": "centralized"}, "does not read it"),
        ({"strategy": "clean_server"}, "does not read it"),
        ({"strategy": "fedavg"}, "does not read it"),
        ({"strategy": "mdgan"}, "does not read it"),
    ],
)
def test_uploads_are_not_denoised_where_that_says_nothing_of_images(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingError, match=reason) as refused:
        Config.from_flat({"num_rounds": 10, "deconvolution.iterations": 2} | given)
    assert refused.value.name == "deconvolution.iterations"


def test_nothing_is_denoised_in_some_steps_alone() -> None:
    with pytest.raises(SettingError, match=r"^`deconvolution.sampling_steps` = 5 .* 0 when `deconvolution.iterations`"):
        Config.from_flat({"deconvolution.sampling_steps": 5})
