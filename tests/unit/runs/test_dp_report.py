"""What a run's releases guarantee, by client, and the sentence about it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import tests.accountants  # noqa: F401 - before a test imports what it imports
from collafuse_flwr.data.federated import FederationData
from collafuse_flwr.data.images import ImageMetadata, ImageSet
from collafuse_flwr.data.partition.partitions import Partition
from collafuse_flwr.diffusion.schedule import make_schedule
from collafuse_flwr.privacy.accounting import Training, composed_epsilon, epsilon, group_epsilon
from collafuse_flwr.runs.dp_report import describe_guarantee, dp_guarantees, group_guarantees
from tests.small_runs import small


def guaranteed(
    tmp_path: Path, releases: list[int | None], cuts: list[int] | None = None, **settings: Any
) -> tuple[dict[str, float | None], list[dict[str, Any]]]:
    """All clients together and each, for 8 x 8 images with T = 20."""
    cuts = cuts or [14] * len(releases)
    clients = [
        {
            "client": i,
            "cut_step": k,
            "releases": n,
            "num_images": 100,
            "dp_steps": 0 if n is None else 50,
            "averages": 4,
        }
        for i, (k, n) in enumerate(zip(cuts, releases, strict=True))
    ]
    return dp_guarantees(small(tmp_path, **settings), 64, clients), clients


def test_every_client_has_the_guarantee_of_its_cut_and_releases(tmp_path: Path) -> None:
    pooled, clients = guaranteed(
        tmp_path, [1, 4, 0], [14, 18, 20], diffusion__schedule="linear", upload__clip_norm=4.3, dp__delta=1e-4
    )
    alpha_bar = make_schedule("linear", 20).alpha_bar
    for client, cut, count in zip(clients, (14, 18), (1, 4), strict=False):
        mu = 2 * 4.3 * math.sqrt(count * float(alpha_bar[cut] / (1 - alpha_bar[cut])))
        assert client["dp_mu"] == pytest.approx(mu)
        assert client["dp_rho"] == pytest.approx(mu**2 / 2)
        assert client["dp_epsilon"] == pytest.approx(epsilon(mu, 1e-4), rel=1e-4)
    assert clients[2]["dp_epsilon"] == 0
    assert pooled["dp_mu"] == max(client["dp_mu"] for client in clients)


def test_without_clipping_the_bound_is_that_of_any_image(tmp_path: Path) -> None:
    clipped, free = (guaranteed(tmp_path, [1], upload__clip_norm=norm)[0]["dp_mu"] for norm in (4.0, 0.0))
    assert clipped is not None
    assert free == pytest.approx(2 * clipped)
    assert guaranteed(tmp_path, [1], strategy="pfdm")[0]["dp_mu"] == pytest.approx(1.5 * clipped)


@pytest.mark.parametrize("strategy", ["fedavg", "hybrid"])
def test_weights_are_not_covered(tmp_path: Path, strategy: str) -> None:
    pooled, clients = guaranteed(tmp_path, [1, 1], strategy=strategy)
    assert set(pooled.values()) == {None}
    assert clients[0]["dp_epsilon"] is None
    assert describe_guarantee(small(tmp_path), pooled) == ""


def test_clean_images_and_unknown_counts(tmp_path: Path) -> None:
    pooled, clients = guaranteed(tmp_path, [1, None], [0, 14])
    assert pooled["dp_epsilon"] == math.inf
    assert clients[1]["dp_epsilon"] is None


@pytest.mark.parametrize(
    ("eps", "said"),
    [
        (0.0, "nothing was released"),
        (
            7.96,
            "an image's release: epsilon 7.96 at delta 1e-05. It holds against all who receive what it covers. It "
            "covers uploads only, not the clients' networks.",
        ),
        (213.0, "epsilon 213 at delta 1e-05, which guarantees nothing (above 20)"),
    ],
)
def test_the_sentence_says_when_a_number_is_vacuous(tmp_path: Path, eps: float, said: str) -> None:
    assert said in describe_guarantee(small(tmp_path), {"dp_epsilon": eps})
    assert ("labels" in describe_guarantee(small(tmp_path), {"dp_epsilon": eps})) == (eps > 0)
    for settings in ({"upload.share_labels": False}, {"data.conditioning": "none"}):
        assert "labels" not in describe_guarantee(small(tmp_path, **settings), {"dp_epsilon": eps})


TRAINED = {"dp.noise_multiplier": 4.0, "client.batch_size": 20}


@pytest.mark.parametrize(("strategy", "cut", "releases"), [("collafuse", 14, 1), ("fedavg", 20, 0), ("hybrid", 14, 1)])
def test_privately_trained_networks_are_covered_with_the_releases(
    tmp_path: Path, strategy: str, cut: int, releases: int
) -> None:
    clip = {} if strategy == "fedavg" else {"upload.clip_norm": 1.0}
    settings = {"diffusion.schedule": "linear"} | clip | TRAINED
    pooled, (client,) = guaranteed(tmp_path, [releases], [cut], strategy=strategy, **settings)
    training: dict[str, Any] = {"noise_multiplier": 4.0, "sampling_rate": 0.2, "steps": 50}
    assert client["dp_sgd_epsilon"] == pytest.approx(composed_epsilon(0, 1e-5, Training(**training)))
    assert client["dp_total_epsilon"] == pytest.approx(composed_epsilon(client["dp_mu"], 1e-5, Training(**training)))
    both = client["dp_epsilon"] + client["dp_sgd_epsilon"]
    assert max(client["dp_epsilon"], client["dp_sgd_epsilon"]) <= client["dp_total_epsilon"] < both + 1e-9
    assert pooled["dp_total_epsilon"] == client["dp_total_epsilon"]


def test_nothing_is_said_of_networks_that_were_not_trained_privately(tmp_path: Path) -> None:
    pooled, (client,) = guaranteed(tmp_path, [1])
    assert (client["dp_sgd_epsilon"], client["dp_total_epsilon"], pooled["dp_total_epsilon"]) == (None, None, None)
    assert "uploads only" in describe_guarantee(small(tmp_path), pooled)


def test_a_client_that_did_not_report_has_no_guarantee(tmp_path: Path) -> None:
    _, clients = guaranteed(tmp_path, [0, None], [20, 20], strategy="fedavg", **TRAINED)
    assert [client["dp_total_epsilon"] is None for client in clients] == [False, True]


@pytest.mark.parametrize(
    ("released", "trained", "total", "said"),
    [
        (0.0, 5.0, 5.0, "an image in its client's network: epsilon 5 at delta 1e-05."),
        (7.6, 5.0, 9.8, "in its release (7.6) and in its client's network (5) together: epsilon 9.8 at delta 1e-05."),
        (7.6, 18.0, 22.0, "together: epsilon 22 at delta 1e-05, which guarantees nothing (above 20)"),
        (0.0, 0.0, 0.0, "nothing was released"),
    ],
)
def test_the_sentence_is_about_the_sum(
    tmp_path: Path, released: float, trained: float, total: float, said: str
) -> None:
    pooled = {"dp_epsilon": released, "dp_sgd_epsilon": trained, "dp_total_epsilon": total}
    sentence = describe_guarantee(small(tmp_path), pooled)
    assert said in sentence
    assert "uploads only" not in sentence
    assert ("labels" in sentence) == (released > 0)


def patients() -> FederationData:
    """Two clients, whose largest patients have three images and two."""
    images = ImageSet(
        torch.zeros((6, 1, 8, 8), dtype=torch.uint8),
        torch.zeros(6, dtype=torch.int64),
        ("a",),
        "set",
        ImageMetadata(groups={"patient": torch.tensor([0, 0, 0, 1, 2, 2])}, group_key="patient"),
    )
    rows = [torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])]
    return FederationData(images, tuple(Partition(own, own[:0]) for own in rows))


def test_a_patient_is_worth_all_of_its_images(tmp_path: Path) -> None:
    """Of three slices, as far apart as sqrt(3) images."""
    data = patients()
    config, clients = small(tmp_path), guaranteed(tmp_path, [1, 1], diffusion__schedule="linear")[1]
    pooled = group_guarantees(config, data, clients)
    for client, count in zip(clients, (3, 2), strict=True):
        assert client["dp_group_epsilon"] == pytest.approx(epsilon(client["dp_mu"] * math.sqrt(count), 1e-5))
    assert pooled["dp_group_epsilon"] == clients[0]["dp_group_epsilon"] > clients[0]["dp_epsilon"]
    assert "of all images of a patient or person together" in describe_guarantee(config, pooled | clients[0])
    assert group_guarantees(config, None, clients) == {}


def test_a_patient_is_in_its_clients_network_with_all_of_its_images(tmp_path: Path) -> None:
    settings = {"strategy": "fedavg", "dp.noise_multiplier": 30.0, "client.batch_size": 5}
    pooled, clients = guaranteed(tmp_path, [0, 0], [20, 20], **settings)
    config = small(tmp_path, **settings)
    pooled |= group_guarantees(config, patients(), clients)
    training = Training(30.0, 0.05, 50)
    assert [c["dp_group_epsilon"] for c in clients] == [group_epsilon(0.0, 1e-5, n, training) for n in (3, 2)]
    assert pooled["dp_group_epsilon"] == clients[0]["dp_group_epsilon"] > pooled["dp_total_epsilon"]
    said = f"of all images of a patient or person together, epsilon {pooled['dp_group_epsilon']:.3g}"
    assert said in describe_guarantee(config, pooled)
    assert "together, epsilon above 20" in describe_guarantee(config, pooled | {"dp_group_epsilon": math.inf})


def test_a_patient_is_in_noised_weights_as_its_client_is(tmp_path: Path) -> None:
    """mu^2 = n mu_release^2 + 4 rounds / z^2: it was said to be in nothing."""
    settings: dict[str, Any] = {
        "strategy": "hybrid",
        "averaging.clip_norm": 1.0,
        "averaging.noise": "client",
        "averaging.noise_multiplier": 3.0,
    }
    pooled, clients = guaranteed(tmp_path, [1, 1], **settings)
    pooled |= group_guarantees(small(tmp_path, **settings), patients(), clients)
    for client, count in zip(clients, (3, 2), strict=True):
        mu = math.sqrt(count * client["dp_mu"] ** 2 + 4 * client["averages"] / 3.0**2)
        assert client["dp_group_epsilon"] == pytest.approx(epsilon(mu, 1e-5))
    private = settings | {"strategy": "fedavg", "dp.noise_multiplier": 30.0}
    clients = guaranteed(tmp_path, [0, 0], [20, 20], **private)[1]
    steps = Training(30.0, 0.08, 50), Training(3.0, 1.0, clients[0]["averages"])
    assert clients[0]["dp_total_epsilon"] == pytest.approx(composed_epsilon(0.0, 1e-5, *steps))
    assert group_guarantees(small(tmp_path, **private), patients(), clients) == {"dp_group_epsilon": None}


def test_dp_sgd_is_stated_beside_averages_with_noise(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"strategy": "fedavg", "dp.noise_multiplier": 4.0, "averaging.clip_norm": 1.0}
    settings |= {"averaging.noise": "server", "averaging.noise_multiplier": 3.0}
    pooled, _ = guaranteed(tmp_path, [0], [20], **settings)
    assert "an image in its client's network" in describe_guarantee(small(tmp_path, **settings), pooled)


def test_no_patient_has_a_guarantee_where_other_runs_have_trained_too(tmp_path: Path) -> None:
    settings = {"strategy": "fedavg", "dp.noise_multiplier": 30.0, "client.batch_size": 5}
    clients = guaranteed(tmp_path, [0, 0], [20, 20], **settings)[1]
    clients[0]["dp_total_epsilon"] *= 1.1
    assert group_guarantees(small(tmp_path, **settings), patients(), clients)["dp_group_epsilon"] is not None
    assert clients[0]["dp_group_epsilon"] is None
