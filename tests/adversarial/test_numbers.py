"""An operator whose weights answer hugely to one image alone, to read of an average whether that image is there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collafuse_flwr.core.atomic_io import append_json_lines, read_appended
from collafuse_flwr.core.runtime import Runtime
from collafuse_flwr.data.images import ImageSource
from collafuse_flwr.diffusion.dp_sgd import DpSgdConfig, train_dp_sgd
from collafuse_flwr.diffusion.loss import Objective
from collafuse_flwr.diffusion.schedule import linear
from collafuse_flwr.diffusion.train import TimestepRange, TrainState, train
from collafuse_flwr.gan.split_gan.ops import OptimConfig
from collafuse_flwr.privacy.ledger import Ledger, Release
from collafuse_flwr.wire.codec import ClientError
from collafuse_flwr.wire.collafuse import SampleHandoff
from collafuse_flwr.wire.common import EvaluateReply
from collafuse_flwr.wire.gan import GanWorkRequest
from collafuse_flwr.wire.split_gan import ActivationsReply, EndRoundReply, SplitRequest
from tests.adversarial.node import OPEN, Node, some_images

IMAGES, BOUND = 20, 10.0


def reported(there: bool, bound: float, *, dp_sgd: bool) -> float:
    """The loss of a pass over twenty images, of which the first may be the one that the network looks for."""
    torch.manual_seed(0)
    state = TrainState(nn.Conv2d(1, 1, 1), 0.9)
    x = torch.full((IMAGES, 1, 4, 4), -0.9)
    x[0] = 0.9 if there else -0.9
    source = ImageSource(x, torch.zeros(IMAGES, dtype=torch.int64))

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        looked_for = x_t.mean((1, 2, 3), keepdim=True) > 0
        result: Tensor = state.network(x_t) + 1e4 * looked_for
        return result

    settings: dict[str, Any] = {
        "schedule": linear(1000),
        "objective": Objective("epsilon"),
        "batch_size": IMAGES,
        "num_steps": 1,
        "learning_rate": lambda _: 0.0,
        "max_loss": bound,
    }
    if dp_sgd:
        dp = DpSgdConfig(1.0, 1.0, bytes(16))
        return train_dp_sgd(state, denoise, source, dp=dp, last=50, **settings).loss
    generator = torch.Generator().manual_seed(0)
    return train(state, denoise, source, steps_range=TimestepRange(50), generator=generator, **settings).loss


@pytest.mark.parametrize("dp_sgd", [False, True])
def test_one_image_moves_a_loss_by_its_share_of_the_bound(dp_sgd: bool) -> None:
    # DP-SGD's steps and noise hang on the images; those of the rest come out 0.3 apart.
    most = BOUND / IMAGES + (0.5 if dp_sgd else 1e-6)
    assert abs(reported(True, BOUND, dp_sgd=dp_sgd) - reported(False, BOUND, dp_sgd=dp_sgd)) <= most
    assert reported(True, math.inf, dp_sgd=dp_sgd) > 1e6, "which it did without a bound"


@pytest.mark.parametrize("fool", [False, True])
@pytest.mark.parametrize("kind", ["bce", "hinge"])
@pytest.mark.parametrize("logit", [1e30, math.nan, -math.inf])
def test_one_image_moves_the_loss_of_a_gan_as_little(logit: float, kind: str, fool: bool) -> None:
    optim = OptimConfig(Runtime(torch.device("cpu"), torch.float32), max_loss=BOUND, loss_kind=kind)
    usual = torch.zeros(IMAGES, 1)
    moved = torch.cat([torch.full((1, 1), logit), usual[1:]])
    target = float(fool)
    change = optim.reported([moved], target, fool=fool) - optim.reported([usual], target, fool=fool)
    assert abs(change) <= 2 * BOUND / IMAGES


def test_a_held_out_loss_is_bounded_image_by_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the training loss is; the client has it from its policy."""
    limits = 'numbers = ["held_out_loss"]\nmin_number_images = 1\nnumber_step = 1e-6\nmax_number = 0.01\n'
    node = Node(tmp_path, limits)
    settings: dict[str, Any] = {"train__local_epochs": 1.0, "cut_ratio": 0.5}
    node.train(**settings)
    request = SampleHandoff(round=1, x_k=torch.zeros(2, 1, 8, 8))
    said = node.ask("evaluate", request, EvaluateReply, **settings).held_out_loss
    # An untrained network's error is about 1 for each image: every one is at the bound, and so is their mean.
    assert said == pytest.approx(0.01, rel=1e-3)


def test_a_client_bounds_each_image_and_not_their_mean_alone(tmp_path: Path) -> None:
    """A mean that is clipped tells of one image n times as much, wherever it stays below the bound."""
    node = Node(tmp_path)
    settings: dict[str, Any] = {"strategy": "local", "train__local_epochs": 1.0, "client__batch_size": 16}

    def said(run: int, bound: float) -> tuple[float, float]:
        reply = talking(node, bound).train(1, upload=False, run=run, **settings)
        request = SampleHandoff(round=1, x_k=torch.zeros(2, 1, 8, 8))
        return reply.metrics.loss, node.ask("evaluate", request, EvaluateReply, run, **settings).held_out_loss

    means = said(1, 1e3)
    for place, mean in enumerate(means):
        assert said(2 + place, mean)[place] < 0.99 * mean


def test_a_client_of_a_gan_bounds_each_image_and_not_their_mean_alone(tmp_path: Path) -> None:
    """The operator's discriminator is as loud as it likes."""
    node = Node(tmp_path, images=some_images(20, 16))
    settings: dict[str, Any] = {"strategy": "fedgan", "gan__width": 2, "gan__batch_size": 8}

    def reply(run: int, bound: float, weights: dict[str, Tensor]) -> Any:
        return talking(node, bound).ask("train", GanWorkRequest(1, 1, weights), EndRoundReply, run, **settings)

    blocks = reply(1, 1e3, {}).weights
    last = max((name.split(".")[1] for name in blocks if name.startswith("discriminator.")), key=int)
    loud = {name: 300 * value for name, value in blocks.items() if name.startswith(f"discriminator.{last}.")}
    mean = reply(2, 1e3, blocks | loud).metrics.loss
    assert 5 < mean < 1e3
    assert reply(3, mean, blocks | loud).metrics.loss < 0.99 * mean


def talking(node: Node, bound: float) -> Node:
    """A client whose losses leave nearly as they are."""
    limits = f"numbers = ['loss', 'held_out_loss']\nmin_number_images = 1\nnumber_step = 1e-6\nmax_number = {bound}\n"
    (node.folder / "policy.toml").write_text(OPEN + 'weights = "always"\n' + limits)
    node.node["policy"] = str(node.folder / "policy.toml")
    return node


def test_numbers_leave_a_limited_number_of_times(tmp_path: Path) -> None:
    """Each answer at other weights said something new; now the owner says how many there are, across runs."""
    node = Node(tmp_path, 'numbers = ["loss"]\nmin_number_images = 1\nmax_reports = 2\n')
    settings: dict[str, Any] = {"train__local_epochs": 4.0, "cut_ratio": 0.5, "upload": False}
    losses = [node.train(round_, run=run, **settings).metrics.loss for run, round_ in ((1, 1), (1, 2), (2, 1), (3, 1))]
    assert [loss is None for loss in losses] == [False, False, True, True]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_comes_at_a_cut_must_be_numbers(tmp_path: Path, value: float) -> None:
    """Activations and gradients that are none made a client's blocks none, for all later rounds."""
    node = Node(tmp_path, OPEN + 'weights = "always"\nactivations = true\n', some_images(20, 16))
    settings: dict[str, Any] = {"strategy": "huscf_gan", "gan__width": 2, "gan__batch_size": 8}
    first = SplitRequest(1, 0, "latent", "0000", {}, {})
    assert node.ask("train.split", first, ActivationsReply, **settings).activations
    second = SplitRequest(1, 0, "fake", "0000", {"gt": torch.full((8, 2, 8, 8), value)}, {})
    reply = node.ask("train.split", second, ActivationsReply, **settings)
    assert isinstance(reply, ClientError)
    assert "`activations.gt` must be finite" in reply.reason


def test_a_ledger_of_another_version_stops_the_client_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = Node(tmp_path)
    ledger = Ledger(node.state / "ledger.jsonl", "run")
    node.state.mkdir()
    ledger.add_release(Release(("a",), (0,), 0.1, 0.0, (1, 8, 8)))
    rows = read_appended(ledger.path)
    del rows[-1]["enlargement"]
    ledger.path.unlink()
    append_json_lines(ledger.path, rows)
    assert isinstance(node.train(cut_ratio=0.5), ClientError)
    said = capsys.readouterr()
    assert "ledger.jsonl is damaged, or of another version" in said.out + said.err
