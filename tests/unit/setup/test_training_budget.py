"""How the image updates of a run are dealt out: no more and no fewer than a DDPM's."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.setup.training_budget import (
    averaging_rounds,
    client_start_round,
    client_step_share,
    deconvolution_rounds,
    starts_from_backbone,
    updates_per_round,
)
from tests.small_runs import dotted


def some(**given: Any) -> Config:
    return Config.from_flat(dotted(given))


@given(st.integers(1, 500))
def test_clients_that_start_from_the_backbone_wait_for_it_but_never_to_the_end(num_rounds: int) -> None:
    """It trains alone for 70 % of the rounds, so that the weights taken are worth it, and clients have rounds left."""
    first = client_start_round(some(num_rounds=num_rounds, client__init_from="backbone"), num_rounds)
    assert 1 <= first <= num_rounds
    assert abs((first - 1) - 0.7 * num_rounds) <= 1


@pytest.mark.parametrize(("num_rounds", "first"), [(1, 1), (2, 2), (3, 3), (10, 8), (100, 71)])
def test_the_round_that_is_chosen(num_rounds: int, first: int) -> None:
    assert client_start_round(some(client__init_from="backbone"), num_rounds) == first


def test_a_configured_start_round_is_used() -> None:
    assert client_start_round(some(client__init_from="backbone", client__start_round=3), 10) == 3


def test_clients_that_start_at_random_start_at_once() -> None:
    assert client_start_round(some(client__init_from="random"), 10) == 1
    with pytest.raises(SettingError, match=r"^`client.start_round` = 4 .* unless `client.init_from` is backbone"):
        some(client__init_from="random", client__start_round=4)


def test_only_a_client_with_part_of_the_chain_takes_the_backbone() -> None:
    """At cut 0 it has no denoiser, at cut T there is no backbone to take."""
    taking = {
        cut
        for cut in range(101)
        if starts_from_backbone(some(client__init_from="backbone", diffusion__timesteps=100), cut)
    }
    assert taking == set(range(1, 100))
    assert not any(
        starts_from_backbone(some(client__init_from="random", diffusion__timesteps=100), cut) for cut in range(101)
    )


@pytest.mark.parametrize(
    ("iterations", "settings", "rounds"),
    [
        (0, {}, set()),
        (1, {"client__init_from": "random"}, {6}),
        (9, {"client__init_from": "random"}, set(range(2, 11))),
        # Clients take the backbone in round 8.
        (3, {}, {3, 5, 7}),
        (6, {}, set(range(2, 8))),
        (7, {}, {3, 4, 5, 6, 8, 9, 10}),
    ],
)
def test_uploads_are_denoised_before_clients_take_the_backbone(
    iterations: int, settings: dict[str, Any], rounds: set[int]
) -> None:
    config = some(num_rounds=10, deconvolution__iterations=iterations, **settings)
    assert deconvolution_rounds(config) == rounds


@given(st.integers(2, 60), st.data(), st.sampled_from(["random", "backbone"]))
def test_there_are_as_many_rounds_of_it_as_set_and_none_is_the_first(
    num_rounds: int, data: st.DataObject, start: str
) -> None:
    iterations = data.draw(st.integers(1, num_rounds - 1))
    own = {"num_rounds": num_rounds, "client.init_from": start, "deconvolution.iterations": iterations}
    rounds = deconvolution_rounds(Config.from_flat(own))
    assert len(rounds) == iterations
    assert 2 <= min(rounds) <= max(rounds) <= num_rounds


@given(st.integers(0, 100), st.integers(1, 10**6), st.floats(0.01, 100))
def test_both_sides_together_do_what_one_ddpm_would(cut: int, num_images: int, epochs: float) -> None:
    config = some(client__update_budget="proportional", train__local_epochs=epochs)
    client, server = (updates_per_round(config, num_images, share) for share in (cut / 100, 1 - cut / 100))
    assert client + server == pytest.approx(epochs * num_images)
    assert client == pytest.approx(cut / 100 * epochs * num_images)


@given(st.floats(0, 1, exclude_min=True), st.integers(1, 10**6))
def test_full_effort_trains_a_side_on_every_image_however_small_its_share(share: float, num_images: int) -> None:
    assert (
        updates_per_round(some(client__update_budget="full", train__local_epochs=3.0), num_images, share)
        == 3.0 * num_images
    )


@pytest.mark.parametrize("effort", ["proportional", "full"])
def test_a_side_without_a_share_does_nothing(effort: str) -> None:
    assert updates_per_round(some(client__update_budget=effort), 1000, 0) == 0


@pytest.mark.parametrize("effort", ["proportional", "full"])
def test_a_side_with_everything_does_all_of_a_ddpm(effort: str) -> None:
    assert updates_per_round(some(client__update_budget=effort, train__local_epochs=2.0), 1000, 1) == 2000


NET = 1000  # bytes of a network


def exchanges(images: int, **given: Any) -> set[int]:
    """Rounds of exchange with 8 values an image (int8, and 8 bytes for the label)."""
    matched = {"cut_ratio": 0.5} if given["train__match"] != "image_updates" else {}
    config = Config.from_flat({"strategy": "fedavg", "num_rounds": 10} | matched | dotted(given))
    return averaging_rounds(config, images, 8, NET, NET)


@pytest.mark.parametrize("budget", ["image_updates", "client_flops"])
def test_weights_are_exchanged_in_every_round_unless_traffic_is_counted(budget: str) -> None:
    assert exchanges(1, train__match=budget) == set(range(1, 11))


@pytest.mark.parametrize(
    ("images", "rounds"),
    [
        (0, set()),  # the backbone alone is worth half an exchange
        (62, set()),  # 62 * 16 + 1000 = 1992 bytes, an exchange is 2000
        (63, {10}),
        (190, {5, 10}),
        (1200, set(range(1, 11))),
        (10**6, set(range(1, 11))),
    ],
)
def test_traffic_pays_for_exchanges_that_are_spread_over_the_run(images: int, rounds: set[int]) -> None:
    assert exchanges(images, train__match="traffic") == rounds


@pytest.mark.parametrize(
    ("given", "attributes", "label_bytes"),
    [
        ({}, 0, 8),
        ({"data.conditioning": "attributes"}, 40, 40),
        ({"data.conditioning": "none"}, 0, 0),
        ({"upload.share_labels": False}, 0, 0),
    ],
)
def test_traffic_counts_the_labels_that_are_shared(given: dict[str, Any], attributes: int, label_bytes: int) -> None:
    """The 2,000 bytes of one exchange are paid for by the backbone and as many images as 1,000 bytes are."""
    config = Config.from_flat(
        {"strategy": "fedavg", "num_rounds": 10, "cut_ratio": 0.5, "train.match": "traffic"} | dotted(given)
    )
    enough = math.ceil(NET / (8 + label_bytes))
    assert averaging_rounds(config, enough, 8, NET, NET, attributes) == {10}
    assert averaging_rounds(config, enough - 1, 8, NET, NET, attributes) == set()


def test_without_an_upload_or_a_backbone_to_take_there_is_nothing_to_pay_with() -> None:
    assert exchanges(10**6, train__match="traffic", cut_ratio=1.0) == set()
    assert exchanges(62, train__match="traffic", client__init_from="random") == set()
    assert exchanges(125, train__match="traffic", client__init_from="random") == {10}


def test_a_whole_chain_at_equal_flops_has_the_share_of_the_cut() -> None:
    whole = Config().diffusion.timesteps
    for strategy in ("local", "fedavg"):
        config = Config.from_flat({"strategy": strategy, "train.match": "client_flops", "cut_ratio": 0.3})
        assert client_step_share(config, whole) == pytest.approx(0.3)
        assert client_step_share(Config.from_flat({"strategy": strategy}), whole) == 1
    assert client_step_share(Config.from_flat({"train.match": "client_flops"}), 20) == pytest.approx(0.2)
