"""An operator of a GAN who asks for more steps or samples than the settings say, for labels, or for others' cuts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from collafuse_flwr.client.policy import Policy
from collafuse_flwr.client.split_session import Batches
from collafuse_flwr.config.config import Config
from collafuse_flwr.data.federated import load_client_data
from collafuse_flwr.gan.mdgan import Discriminator
from collafuse_flwr.setup.gan import build_gan_architecture, build_optim_config
from collafuse_flwr.wire.codec import ClientError
from collafuse_flwr.wire.common import ClientInfo, ClientInfoRequest, EvaluateReply, TrainMetrics
from collafuse_flwr.wire.gan import DiscriminatorFeedbackRequest, GanWorkRequest, SyntheticWorkRequest
from collafuse_flwr.wire.split_gan import ActivationsReply, EndRoundReply, GenerateHeadRequest, SplitRequest
from tests.adversarial.node import OPEN, Node, some_images

GAN: dict[str, Any] = {"gan__width": 2, "gan__batch_size": 8, "train__local_epochs": 1.0}
GANS = OPEN + 'weights = "always"\nactivations = true\n'


def a_node(folder: Path, policy: str = GANS, **settings: Any) -> tuple[Node, dict[str, Any]]:
    return Node(folder, policy, some_images(20, 16)), GAN | settings


def refused(reply: Any) -> str:
    """The limit that a refusal names."""
    assert isinstance(reply, ClientError), reply
    return reply.reason.partition("`")[2].partition("`")[0]


def fakes(step: int) -> DiscriminatorFeedbackRequest:
    labels = {"x_g": torch.zeros(8, dtype=torch.int64)}
    return DiscriminatorFeedbackRequest(1, step, {"x_g": torch.zeros(8, 1, 16, 16)}, labels, {})


def test_labels_leave_a_split_gan_only_if_the_owner_says_so(tmp_path: Path) -> None:
    """All came back from the generator's first activations, under a policy that said labels = false."""
    node, settings = a_node(tmp_path, GANS.replace("labels = true\n", ""))
    request = SplitRequest(1, 0, "latent", "0000", {}, {})
    assert refused(node.ask("train.split", request, ActivationsReply, strategy="huscf_gan", **settings)) == "labels"


@pytest.mark.parametrize("strategy", ["mdgan", "fedgan"])
def test_weights_of_a_gan_say_which_classes_a_batch_had(tmp_path: Path, strategy: str) -> None:
    """After a step the row of a class has moved exactly if the batch had it, whatever the policy said of labels."""
    limits = GANS + "min_images = 1\n"
    node, settings = a_node(tmp_path, limits, strategy=strategy, gan__batch_size=2, data__holdout_fraction=0.4)
    np.savez(tmp_path / "images.npz", images=some_images(8, 16), labels=np.arange(8))
    config = Config.from_flat(node.run_config(**settings))
    net = Discriminator(build_gan_architecture(config, 1, 16, 8), ("sent",), build_optim_config(config))
    if strategy == "mdgan":
        first = DiscriminatorFeedbackRequest(1, 0, {"x_g": torch.zeros(2, 1, 16, 16)}, fakes(0).labels, net.weights())
        first.labels["x_g"] = first.labels["x_g"][:2]
        assert node.ask("train.feedback", first, ActivationsReply, **settings).activations
    request = GanWorkRequest(1, 1, net.weights() if strategy == "fedgan" else {})
    name = "discriminator.0.embedding.weight"
    moved = node.ask("train", request, EndRoundReply, **settings).weights[name] - net.weights()[name]
    classes = set(moved.abs().amax(dim=1).nonzero().flatten().tolist())
    secret = (node.state / "secret").read_bytes()
    data = load_client_data(config.data, secret, str(tmp_path / "images.npz"), str(tmp_path / "cache")).train
    batch = Batches(config, data, secret, secret, torch.device("cpu")).draw(1, 0)
    assert classes - {0} == set(batch.labels.tolist()) - {0}
    (tmp_path / "policy.toml").write_text(limits.replace("labels = true\n", ""))
    assert refused(node.ask("query.client_info", ClientInfoRequest(), ClientInfo, **settings)) == "labels"


def test_a_round_of_fedgan_has_neither_too_few_steps_nor_too_many(tmp_path: Path) -> None:
    """One step's weights are one gradient, which is inverted; and 10^9 steps were begun."""
    node, settings = a_node(tmp_path, GANS + "min_steps = 3\nmax_steps = 4\n", strategy="fedgan")
    for count, limit in ((2, "min_steps"), (5, "max_steps")):
        assert refused(node.ask("train", GanWorkRequest(count, count, {}), EndRoundReply, **settings)) == limit
    assert not list(node.state.glob("state-*")), "nothing was trained"
    assert node.ask("train", GanWorkRequest(6, 3, {}), EndRoundReply, **settings).weights


def test_a_client_of_pfl_gan_trains_on_no_images_of_another_kind_and_no_more_than_the_settings_say(
    tmp_path: Path,
) -> None:
    node, settings = a_node(tmp_path, strategy="pfl_gan", pfl_gan__num_synthetic=5)
    images, labels = torch.zeros(5, 1, 16, 16, dtype=torch.uint8), torch.arange(5) % 3
    broken = ((images[:, :, :8, :8], labels), (images.repeat(2, 1, 1, 1), labels.repeat(2)), (images.float(), labels))
    for run, (given, own) in enumerate(broken):
        request = SyntheticWorkRequest(1, 3, True, {}, given, own)
        assert refused(node.ask("train", request, EndRoundReply, run, **settings)) == "synthetic"
    request = SyntheticWorkRequest(1, 3, True, {}, images, labels + 10**6)
    assert refused(node.ask("train", request, EndRoundReply, 3, **settings)) == "labels"
    assert not list(node.state.glob("state-*")), "nothing was trained"


def test_a_generator_that_has_learnt_from_synthetic_images_never_leaves(tmp_path: Path) -> None:
    """It left whenever a round came without such images, and the server mixed it."""
    node, settings = a_node(tmp_path, strategy="pfl_gan", pfl_gan__num_synthetic=5)
    synthetic = torch.zeros(5, 1, 16, 16, dtype=torch.uint8), torch.arange(5) % 3

    def sent(round_: int, mixture: tuple[Any, Any], *, want: bool = True) -> set[str]:
        request = SyntheticWorkRequest(round_, 3, want, {}, *mixture)
        return {name.partition(".")[0] for name in node.ask("train", request, EndRoundReply, 1, **settings).weights}

    assert sent(1, (None, None)) == {"generator"}
    assert sent(2, (None, None), want=False) == set()
    assert sent(3, synthetic) == set()
    assert sent(4, (None, None)) == set()
    assert sent(5, (None, None)) == set()


def test_a_round_of_mdgan_has_neither_too_few_steps_nor_too_many(tmp_path: Path) -> None:
    node, settings = a_node(tmp_path, GANS + "min_steps = 3\nmax_steps = 3\n", strategy="mdgan")
    assert node.ask("train.feedback", fakes(0), ActivationsReply, **settings).activations
    assert refused(node.ask("train", GanWorkRequest(1, 0, {}), EndRoundReply, **settings)) == "min_steps"
    assert refused(node.ask("train.feedback", fakes(3), ActivationsReply, **settings)) == "max_steps"
    many = settings | {"mdgan__local_steps": 4}
    assert refused(node.ask("train.feedback", fakes(0), ActivationsReply, 2, **many)) == "max_steps"


def test_a_round_of_the_split_gan_has_no_more_steps(tmp_path: Path) -> None:
    node, settings = a_node(tmp_path, GANS + "max_steps = 3\n", strategy="huscf_gan")
    request = SplitRequest(1, 3, "fake", "0000", {}, {})
    assert refused(node.ask("train.split", request, ActivationsReply, **settings)) == "max_steps"


@pytest.mark.parametrize("count", [1, 2001, 10**9])
def test_samples_are_no_more_than_the_settings_say(
    tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A request for 10^9 had the client make them, until its memory was full."""
    node, settings = a_node(tmp_path)
    head = GenerateHeadRequest(1, count, "0000", {})
    requests: tuple[tuple[str, object, str], ...] = (
        ("evaluate.latent", head, "huscf_gan"),
        ("evaluate", GanWorkRequest(1, count, {}), "fedgan"),
        ("evaluate", GanWorkRequest(1, count, {}), "mdgan"),
    )
    for run, (kind, request, strategy) in enumerate(requests):
        assert isinstance(node.ask(kind, request, EvaluateReply, run, strategy=strategy, **settings), ClientError)
        assert f"`evaluation.num_samples` = 2000 is not allowed: at least 2, and the server's {count}" in (
            capsys.readouterr().err
        )


def test_planned_cuts_are_what_the_settings_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where cuts were planned, a client took those of the message, whatever its device."""
    node, settings = a_node(tmp_path, strategy="huscf_gan", devices__profiles="[1]")
    replies = []
    for run, cuts in enumerate(("0000", "1111", "0010", "1000", "0100", "0001")):
        request = SplitRequest(1, 0, "latent", cuts, {}, {})
        replies.append(node.ask("train.split", request, ActivationsReply, run, **settings))
    assert sum(not isinstance(reply, ClientError) for reply in replies) <= 1
    assert "`split_gan.client_cuts` = " in capsys.readouterr().err


# Numbers.


def entered(node: Node, metrics: Any, **settings: Any) -> dict[str, int]:
    """How many images each number of a message counts as."""
    from collafuse_flwr.client.factory import make_client  # noqa: PLC0415
    from collafuse_flwr.client.state_store import ClientStore  # noqa: PLC0415
    from collafuse_flwr.config.config import Config  # noqa: PLC0415
    from collafuse_flwr.data.federated import load_client_data  # noqa: PLC0415

    config = Config.from_flat(node.run_config(**settings))
    data = load_client_data(config.data, bytes(16), str(node.folder / "images.npz"), str(node.folder / "cache"))
    return make_client(config, 0, data, ClientStore(node.state), seeded_secret=False)._averaged_over(metrics)


def test_a_number_counts_different_images(tmp_path: Path) -> None:
    """A round of 200 updates on 16 images was a loss of 200 images."""
    node = Node(tmp_path)
    trained = TrainMetrics(loss=1.0, steps=25, image_updates=200, seconds=1.0, flops=1)
    assert entered(node, trained)["loss"] == 16
    assert entered(node, TrainMetrics(1.0, 1, 8, 1.0, 1))["loss"] == 8
    private = {"strategy": "fedavg", "dp__noise_multiplier": 1.0}
    assert entered(node, trained, **private)["loss"] == 8, "each batch may be of the same images"
    said = EvaluateReply(num_samples=3, kernel_distance=0.1, seconds=1.0, flops_per_image=1, bits=1.0)
    assert entered(node, said) == {"loss": 0, "generator_loss": 0, "held_out_loss": 4, "kernel_distance": 3, "bits": 16}


def test_a_gans_loss_counts_no_more_images_than_there_are(tmp_path: Path) -> None:
    node, settings = a_node(tmp_path, strategy="fedgan", gan__batch_size=64)
    assert entered(node, TrainMetrics(1.0, 1, 64, 1.0, 1), **settings)["generator_loss"] == 16


def test_a_number_that_overflows_makes_no_error() -> None:
    """The error in place of an answer said that weights of the operator's choice overflow at some image."""
    policy = Policy(numbers=("loss",), min_number_images=1)
    trained = TrainMetrics(loss=float("nan"), steps=1, image_updates=1, seconds=None, flops=1)
    assert policy.reported(trained, {"loss": 5}, 0).loss == policy.max_number


@pytest.mark.parametrize("other", [{"run": 2}, {"gan__learning_rate": 1.0}])
def test_a_round_is_gone_on_with_by_the_run_and_the_settings_that_began_it(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    """What left to another run was on no ledger."""
    node, settings = a_node(tmp_path, strategy="mdgan", output="runs/one")
    assert isinstance(node.ask("train.feedback", fakes(0), ActivationsReply, **settings), ActivationsReply)
    assert isinstance(node.ask("train.feedback", fakes(1), ActivationsReply, **(settings | other)), ClientError)
    assert isinstance(node.ask("train.feedback", fakes(1), ActivationsReply, **settings), ActivationsReply)
