"""Clipped and noised updates in whole rounds, and networks that are trained further after the last average."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message
from safetensors.torch import load_file
from torch import Tensor

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.diffusion.unet import WEIGHTS
from collafuse_flwr.privacy.accounting import epsilon
from collafuse_flwr.runs.run_dir import held_run
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.runs.summary import summarize_run
from strategies.fedavg import PartialFedAvg
from strategies.hybrid import Hybrid
from tests.small_runs import bytes_of, connect, metrics, run_strategy, small, spoiled

NANO: dict[str, Any] = {"model": "nano", "data.max_images": 90}
CLIPPED: dict[str, Any] = NANO | {"averaging.clip_norm": 1e6}
NOISED: dict[str, Any] = NANO | {"averaging.clip_norm": 0.5, "averaging.noise_multiplier": 3.0}


def run(folder: Path, strategy: str = "fedavg", **settings: Any) -> PartialFedAvg | Hybrid:
    made = run_strategy(small(folder, strategy=strategy, **settings))
    assert isinstance(made, PartialFedAvg | Hybrid)
    return made


def flat(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([weights[name].double().flatten() for name in sorted(weights)])


def denoiser(folder: Path, client: int) -> dict[str, Tensor]:
    return load_file(RunLayout(folder).client(client).denoiser / WEIGHTS)


@pytest.mark.parametrize("strategy", ["fedavg", "udec"])
def test_updates_that_are_within_their_bound_are_averaged_as_weights_are(tmp_path: Path, strategy: str) -> None:
    """Clients of as many images: but for rounding."""
    settings: dict[str, Any] = {"num_rounds": 1, "partition": "iid", "num_supernodes": 2, "data.max_images": 80}
    plain = run(tmp_path / "plain", strategy, **NANO | settings)
    clipped = run(tmp_path / "clipped", strategy, **CLIPPED | settings)
    counts = set(metrics(tmp_path / "plain")[0]["images"].values())
    assert max(counts) - min(counts) <= 1
    assert plain.shared.keys() == clipped.shared.keys()
    torch.testing.assert_close(flat(clipped.shared), flat(plain.shared), rtol=0, atol=2e-4)
    assert all(torch.equal(value, clipped.averaged[name]) for name, value in clipped.shared.items())


@pytest.mark.parametrize(("noise", "deviation"), [("client", 1.5 / math.sqrt(3)), ("server", 1.5 / 3)])
def test_the_mean_of_three_clients_has_the_noise_that_is_stated(tmp_path: Path, noise: str, deviation: float) -> None:
    one: dict[str, Any] = {"num_rounds": 1}
    quiet = run(tmp_path / "quiet", **NOISED | one | {"averaging.noise": "none", "averaging.noise_multiplier": 1.0})
    noisy = run(tmp_path / "noisy", **NOISED | one | {"averaging.noise": noise})
    assert float((flat(noisy.shared) - flat(quiet.shared)).std()) == pytest.approx(deviation, rel=0.03)


def means_with_and_without_a_loud_client(folder: Path, loudness: float, noise: str) -> tuple[Tensor, Tensor]:
    """The mean of a round with nearly no noise, and the same where one client has added to all of its weights."""

    def shout(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        sent = reply.content.array_records["weights"].to_torch_state_dict()
        reply.content["weights"] = ArrayRecord({name: value + loudness for name, value in sent.items()})
        return reply

    means = []
    for name, act in (("honest", None), ("loud", shout)):
        own = {"num_rounds": 1, "averaging.noise": noise, "averaging.noise_multiplier": 0.01}
        config = small(folder / name, strategy="fedavg", **NOISED | own)
        made = run_strategy(config, connect(config, spoiled(1, act)) if act else None)
        assert isinstance(made, PartialFedAvg)
        assert not metrics(folder / name)[0]["rejected"]
        means.append(flat(made.shared))
    return means[0], means[1]


def test_a_client_that_fails_or_sends_too_much_moves_the_noised_mean_no_further_than_c(tmp_path: Path) -> None:
    """The server's noise is made for a sum over those that were selected, each clipped."""
    honest, loud = means_with_and_without_a_loud_client(tmp_path, 100, "server")
    noise = 0.01 * 0.5 / 3 * math.sqrt(2 * len(honest))
    assert float((honest - loud).norm()) <= 2 * 0.5 / 3 + 1.1 * noise


def test_what_clients_noise_is_bounded_by_the_server_as_noise_can_be(tmp_path: Path) -> None:
    """A client that sent 10^3 everywhere moved the mean by as much, in spite of `clip_norm`."""
    honest, loud = means_with_and_without_a_loud_client(tmp_path, 1000, "client")
    bound = 0.5 * (1 + 0.01 * (math.sqrt(len(honest)) + 9))
    assert float((honest - loud).norm()) <= 2 * bound / 3 * 1.001


@pytest.mark.parametrize("strategy", ["fedavg", "hybrid"])
@pytest.mark.parametrize("noise", ["client", "server"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, strategy: str, noise: str) -> None:
    settings = NOISED | {"averaging.noise": noise, "averaging.finetune_epochs": 1.0}
    run(tmp_path / "straight", strategy, **settings)

    def die(message: Message, context: Context) -> Message | None:
        raise KeyboardInterrupt

    config = small(tmp_path / "resumed", strategy=strategy, **settings)
    with pytest.raises(KeyboardInterrupt):
        run_strategy(config, connect(config, spoiled(1, die, rounds=[2])))
    run_strategy(config)
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "resumed")
    assert bytes_of(tmp_path / "straight") == bytes_of(tmp_path / "resumed")


@pytest.mark.parametrize("noise", ["client", "server"])
def test_the_summary_has_the_epsilon_of_a_client(tmp_path: Path, noise: str) -> None:
    config = small(tmp_path, strategy="fedavg", **NOISED | {"averaging.noise": noise})
    with held_run(config, tmp_path):
        run_strategy(config)
    pooled = summarize_run(tmp_path)["pooled"]
    assert pooled["dp_client_epsilon"] == pytest.approx(epsilon(2 / 3 * math.sqrt(2), 1e-5))


@pytest.mark.parametrize("strategy", ["fedavg", "hybrid"])
def test_after_the_last_average_each_client_trains_a_network_of_its_own(tmp_path: Path, strategy: str) -> None:
    plain = run(tmp_path / "plain", strategy, **NANO)
    tuned = run(tmp_path / "tuned", strategy, **NANO | {"averaging.finetune_epochs": 2.0})
    assert all(torch.equal(value, tuned.shared[name]) for name, value in plain.shared.items()), "nothing leaves"
    assert torch.equal(flat(denoiser(tmp_path / "plain", 0)), flat(denoiser(tmp_path / "plain", 1)))
    assert not torch.equal(flat(denoiser(tmp_path / "tuned", 0)), flat(denoiser(tmp_path / "tuned", 1)))
    (before, after) = (metrics(tmp_path / name)[-1] for name in ("plain", "tuned"))
    for client, images in after["images"].items():
        own = after["evaluation"][client]
        assert own["tuned_updates"] == math.ceil(2 * images / 8) * 8
        assert own["tuned_flops"] * after["clients"][client]["image_updates"] == pytest.approx(
            own["tuned_updates"] * after["clients"][client]["flops"]
        )
        assert own["held_out_loss"] < before["evaluation"][client]["held_out_loss"]
