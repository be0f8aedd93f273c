"""An operator who asks for more than the owner of the images allows, by every setting and message there is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from collafuse_flwr.client.factory import make_simulated_client
from collafuse_flwr.client.policy import Policy
from collafuse_flwr.client_app import MASKED
from collafuse_flwr.config.strategies import STRATEGIES
from collafuse_flwr.core.errors import PolicyError, UserError
from collafuse_flwr.wire.codec import ClientError
from collafuse_flwr.wire.collafuse import SampleHandoff
from collafuse_flwr.wire.common import ClientInfo, ClientInfoRequest, EvaluateReply
from collafuse_flwr.wire.fedavg import WeightsReply, WeightsRequest
from collafuse_flwr.wire.gan import GanWorkRequest
from collafuse_flwr.wire.split_gan import ActivationsReply, EndRoundReply, SplitRequest
from tests.adversarial.node import Node, some_images
from tests.small_runs import small
from tests.strategy_kinds import GANS

GAN: dict[str, Any] = {"train__local_epochs": 1.0, "gan__width": 2, "gan__batch_size": 8}


def limit(reply: Any) -> str:
    """The limit that a refusal names, which is all it says."""
    assert isinstance(reply, ClientError), reply
    head, _, tail = reply.reason.partition("beyond the policy of this client's owner: `")
    assert head == ""
    assert "\n" not in tail
    return tail.partition("`")[0]


def introduce(node: Node, **settings: Any) -> Any:
    return node.ask("query.client_info", ClientInfoRequest(), ClientInfo, **settings)


# Without a policy file.


def test_a_node_without_images_of_its_own_reads_none_that_the_operator_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dataset_path` of the run would be any folder on that machine; only simulations, whose nodes are counted, may."""
    node = Node(tmp_path)
    target: dict[str, Any] = {"dataset_path": node.node.pop("data-path")}
    reply = node.train(cut_ratio=0.0, **target)
    assert isinstance(reply, ClientError)
    assert reply.reason == MASKED
    assert limit(node.train(model="os:system", **target)) == "imports"
    node.node["num-partitions"] = 1
    for misspelt in ({}, {"data_path": "/data"}):
        node.node |= misspelt
        reply = node.train(cut_ratio=0.0, **target)
        assert isinstance(reply, ClientError)
        assert reply.reason == MASKED
    node.node = {"partition-id": 0, "num-partitions": 1}
    with monkeypatch.context() as patch:
        # As many examples of Flower have it: a SuperNode's process is no simulation's.
        patch.setattr(sys, "argv", ["/usr/bin/flwr-clientapp", "--insecure"])
        reply = node.train(cut_ratio=0.0, output=str(tmp_path / "run"), **target)
        assert isinstance(reply, ClientError)
        assert reply.reason == MASKED
    assert not isinstance(node.train(cut_ratio=0.5, output=str(tmp_path / "run"), **target), ClientError)


def test_clean_images_never_leave(tmp_path: Path) -> None:
    """On the state of a run at c = 0.5, cut_ratio=0 and strategy=centralised uploaded the images themselves."""
    node = Node(tmp_path)
    assert node.upload(cut_ratio=0.5) is not None
    assert limit(node.train(run=2, cut_ratio=0.0)) == "max_snr_db"
    assert limit(node.train(run=3, cut_ratio=0.01)) == "max_snr_db"
    assert limit(node.train(run=4, strategy="centralized")) == "max_snr_db"
    assert limit(node.train(run=5, cut__client_ratios="[0]", cut_ratio=0.2)) == "max_snr_db"


def test_one_release_of_an_image_ever(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert node.upload(cut_ratio=0.5) is not None
    assert node.upload(2, cut_ratio=0.5) is not None, "the same again is nothing new"
    assert node.upload(run=2, cut_ratio=0.6) is not None, "nor is the same with more noise"
    further: tuple[dict[str, Any], ...] = (
        {"upload__noise": "resampled"},
        {"upload__draws_per_image": 2},
        {"upload__clip_norm": 2.0},
        {"image_size": 4},
        {"strategy": "pfdm"},
    )
    for run, more in enumerate(further, 3):
        reply = node.train(2 if "upload__noise" in more else 1, run=run, cut_ratio=0.6, **more)
        assert limit(reply) == "max_releases", more


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "udec", "usplit", "hybrid"])
def test_weights_do_not_leave(tmp_path: Path, strategy: str) -> None:
    request = WeightsRequest(round=1, num_rounds=1, weights={}, part="all", want_averaged=True)
    assert limit(Node(tmp_path).ask("train", request, WeightsReply, strategy=strategy)) == "weights"


def test_weights_leave_by_dp_sgd_where_that_is_allowed_and_within_the_budget(tmp_path: Path) -> None:
    node = Node(tmp_path, 'weights = "dp_sgd"\nmax_epsilon = 20\nmin_batch_size = 1\n')
    settings: dict[str, Any] = {"strategy": "fedavg", "train__local_epochs": 1.0, "client__batch_size": 16}

    def train(round_: int, sigma: float) -> Any:
        request = WeightsRequest(round=round_, num_rounds=9, weights={}, part="all", want_averaged=False)
        return node.ask("train", request, WeightsReply, dp__noise_multiplier=sigma, **settings)

    assert limit(train(1, 0.0)) == "weights"
    assert limit(train(2, 0.1)) == "max_epsilon"
    assert train(3, 2.0).weights
    assert limit(train(4, 0.3)) == "max_epsilon"


@pytest.mark.parametrize("strategy", GANS)
def test_nothing_of_a_gan_leaves(tmp_path: Path, strategy: str) -> None:
    node = Node(tmp_path, images=some_images(20, 16))
    allowed = "weights"
    assert limit(introduce(node, strategy=strategy, **GAN)) == allowed
    requests: tuple[tuple[str, object, type[Any]], ...] = (
        ("train.split", SplitRequest(1, 0, "latent", "0000", {}, {}), ActivationsReply),
        ("train", GanWorkRequest(1, 1, {}), EndRoundReply),
    )
    for kind, request, reply in requests:
        assert limit(node.ask(kind, request, reply, strategy=strategy, **GAN)) == allowed
    node = Node(tmp_path, 'weights = "always"\n')
    if {"activations", "gradients"} & set(STRATEGIES[strategy].sends):
        assert limit(introduce(node, strategy=strategy, **GAN)) == "activations"


def test_labels_leave_only_if_the_owner_says_so(tmp_path: Path) -> None:
    assert limit(Node(tmp_path).train(upload__share_labels=True)) == "labels"
    reply = Node(tmp_path, "labels = true\n").train(upload__share_labels=True, cut_ratio=0.5)
    assert reply.upload.labels is not None


@pytest.mark.parametrize(
    "setting", ["model", "client__model", "strategy", "dataset"], ids=["model", "client.model", "strategy", "dataset"]
)
def test_a_server_does_not_make_a_client_import_what_it_likes(
    tmp_path: Path, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted.py").write_text("open('imported', 'w').close()\nname = print\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    node = Node(tmp_path)
    settings = node.run_config(model="nano") | {setting.replace("__", ".").replace("_", "-"): "planted:name"}
    reply = node.send("query.client_info", ClientInfoRequest(), ClientInfo, settings)
    assert limit(reply) == "imports"
    assert not (tmp_path / "imported").exists()


# With one.


@pytest.mark.parametrize(
    ("policy", "settings", "named"),
    [
        ('strategies = ["local"]', {}, "strategies"),
        ('datasets = ["imagefolder"]', {}, "datasets"),
        ("max_snr_db = -10", {"cut_ratio": 0.3}, "max_snr_db"),
        ("min_cut_ratio = 0.4", {"cut_ratio": 0.3}, "min_cut_ratio"),
        ("max_releases = 0", {"cut_ratio": 0.6}, "max_releases"),
        ("max_epsilon = 8", {"cut_ratio": 0.3}, "max_epsilon"),
        ("min_batch_size = 16", {}, "min_batch_size"),
        ("min_images = 100", {}, "min_images"),
        ("min_steps = 3", {"train__local_epochs": 2.0, "cut_ratio": 0.5}, "min_steps"),
        ("min_image_size = 9", {}, "min_image_size"),
        ("max_image_size = 7", {}, "max_image_size"),
        ("max_image_size = 8", {"image_size": 16}, "max_image_size"),
        ("", {"cut__policy": "by_disclosure", "cut__criterion": "bits", "cut__target": 3.0}, "numbers"),
        ("", {"cut__policy": "by_disclosure", "cut__criterion": "reid", "cut__target": 0.5}, "numbers"),
    ],
)
def test_each_limit_holds(tmp_path: Path, policy: str, settings: dict[str, Any], named: str) -> None:
    node = Node(tmp_path, policy + "\n")
    assert limit(node.train(**settings)) == named
    left = [json.loads(line)["kind"] for line in (node.state / "ledger.jsonl").read_text().splitlines()]
    assert set(left) <= {"round", "refusal", "secret"}
    assert left[-1] == "refusal"
    assert not list(node.state.rglob("state-*")), "nothing was trained"


def test_a_budget_of_epsilon_is_for_life(tmp_path: Path) -> None:
    """Of all runs together: the second draw of noise is one too many."""
    node = Node(tmp_path, "max_epsilon = 8\nmax_releases = 9\n")
    settings: dict[str, Any] = {"cut_ratio": 0.62, "upload__clip_norm": 4.3}
    assert node.upload(**settings) is not None
    assert node.upload(run=2, **settings) is not None
    assert limit(node.train(run=3, upload__draws_per_image=4, **settings)) == "max_epsilon"


def test_a_policy_with_a_mistake_lets_nothing_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And only the client's own log says what is wrong with it."""
    for policy, said in (
        ("max_release = 1", "`policy.max_release` = 1 is not allowed: one of strategies, "),
        ("max_releases = -1", "`policy.max_releases` = -1 is not allowed: a whole number >= 0"),
        ("labels = 1", "`policy.labels` = 1 is not allowed: true or false"),
        ('numbers = ["all"]', "`policy.numbers` = ['all'] is not allowed: one or a list of loss"),
        ("max_releases", "is no TOML"),
    ):
        reply = Node(tmp_path, policy).train()
        assert isinstance(reply, ClientError)
        assert "policy" not in reply.reason
        assert said in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot be read"):
        Policy.load(tmp_path / "none.toml")


def test_state_and_secret_need_a_folder_of_the_clients_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without `state-path` they went to a folder that the server chose."""
    node = Node(tmp_path)
    del node.node["state-path"]
    assert isinstance(node.train(output=str(tmp_path / "chosen")), ClientError)
    assert "`state-path` = None is not allowed" in capsys.readouterr().err
    assert not (tmp_path / "chosen").exists()


def test_a_simulation_has_limits_only_if_a_policy_is_named(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("max_snr_db = -10\n")
    make_simulated_client(small(tmp_path, cut_ratio=0.0), 0, tmp_path / "0")
    with pytest.raises(PolicyError, match=r"`labels` = False$"):
        make_simulated_client(small(tmp_path, policy=str(tmp_path / "policy.toml")), 0, tmp_path / "0")


def test_a_node_does_not_take_the_servers_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lenient.toml").write_text("max_snr_db = 100\n")
    assert isinstance(Node(tmp_path).train(policy=str(tmp_path / "lenient.toml"), cut_ratio=0.0), ClientError)
    assert "`policy` = " in capsys.readouterr().err


# The numbers.


def finish(node: Node, round_: int = 1, **settings: Any) -> Any:
    return node.ask("evaluate", SampleHandoff(round=round_, x_k=torch.zeros(2, 1, 8, 8)), EvaluateReply, **settings)


def test_no_number_about_the_images_leaves_unless_the_owner_says_so(tmp_path: Path) -> None:
    node = Node(tmp_path)
    settings: dict[str, Any] = {"train__local_epochs": 4.0, "cut_ratio": 0.5}
    metrics = node.train(**settings).metrics
    assert (metrics.loss, metrics.seconds) == (None, None)
    assert metrics.steps > 0
    said = finish(node, **settings)
    assert (said.held_out_loss, said.kernel_distance, said.bits, said.seconds) == (None, None, None, None)
    assert said.releases == 1


def test_numbers_that_may_leave_are_coarse_and_of_many_images(tmp_path: Path) -> None:
    limits = 'numbers = ["loss", "kernel_distance", "held_out_loss", "bits"]\nnumber_step = 0.25\n'
    node = Node(tmp_path, limits + "min_number_images = 10\n")
    settings: dict[str, Any] = {"cut_ratio": 0.5}
    few = node.train(1, train__local_epochs=1.0, **settings).metrics
    assert (few.steps, few.loss) == (1, None)
    many = node.train(2, train__local_epochs=8.0, **settings).metrics
    assert many.loss is not None
    assert many.loss % 0.25 == 0
    said = finish(node, 2, **settings)
    assert (said.held_out_loss, said.kernel_distance) == (None, None), "of four images"


# What the numbers were good for.


def test_no_losses_at_chosen_weights_rebuild_an_image(tmp_path: Path) -> None:
    """Ninety losses, one for each row, t and noise that the server could replay, rebuilt an image at 125 dB."""
    node = Node(tmp_path)
    one: dict[str, Any] = {"client__batch_size": 1, "train__local_epochs": 0.1, "cut_ratio": 0.9}
    assert limit(node.train(upload=False, **one)) == "min_batch_size"
    assert limit(node.train(strategy="local", **one)) == "min_batch_size"


@pytest.mark.parametrize("datasets", ['["npz", "npz"]', '["npz", "digits"]', "digits"])
def test_images_are_read_once_and_with_no_others(tmp_path: Path, datasets: str) -> None:
    """Forty times the same images had forty noise paths; public images beside few private ones hid how few they are."""
    assert limit(Node(tmp_path).train(dataset=datasets, cut_ratio=0.5)) == "dataset"


@pytest.mark.parametrize(
    ("cut_ratio", "x_k"),
    [
        (0.0, torch.zeros(4, 1, 8, 8)),
        (0.5, torch.zeros(4, 1, 8, 8, dtype=torch.float64)),
        (0.5, torch.full((4, 1, 8, 8), 1e30)),
        (0.5, torch.full((4, 1, 8, 8), torch.nan)),
    ],
)
def test_no_hand_over_asks_about_clean_images(tmp_path: Path, cut_ratio: float, x_k: torch.Tensor) -> None:
    """An answer, or an error, was one noise-free bit about the images, at any cut and as often as wanted."""
    reply = Node(tmp_path).ask("evaluate", SampleHandoff(round=1, x_k=x_k), EvaluateReply, cut_ratio=cut_ratio)
    assert isinstance(reply, ClientError)
    assert "beyond the policy" in reply.reason
