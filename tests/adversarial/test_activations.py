"""An operator of the split GAN who asks for a batch twice, or for other cuts than were agreed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collafuse_flwr.client.huscf_gan import HuscfGanClient
from collafuse_flwr.core.runtime import Runtime
from collafuse_flwr.gan.networks import Cuts, build_architecture
from collafuse_flwr.gan.split_gan.activation_noise import clip_rows
from collafuse_flwr.gan.split_gan.client_half import Batch, ClientHalf
from collafuse_flwr.gan.split_gan.ops import OptimConfig
from collafuse_flwr.wire.codec import ClientError
from collafuse_flwr.wire.common import EvaluateReply
from collafuse_flwr.wire.split_gan import (
    ActivationsReply,
    EndRoundReply,
    EndRoundRequest,
    GenerateHeadRequest,
    GenerateTailRequest,
    SplitRequest,
)
from tests.adversarial.node import OPEN, Node, some_images
from tests.small_runs import here_is, small

ROWS = 8
SETTINGS: dict[str, Any] = {"gan__width": 8, "gan__batch_size": 8, "strategy": "huscf_gan", "train__local_epochs": 1.0}
POLICY = OPEN + 'weights = "always"\nactivations = true\n'


def session(client: HuscfGanClient, weights: dict[str, Tensor]) -> Tensor:
    """What a server reads of real images at the first batch of a round, under the blocks that it sends."""
    client.on_split(SplitRequest(1, 0, "latent", "0000", {}, weights))
    gt = torch.zeros((ROWS, 8, 8, 8))
    sent = client.on_split(SplitRequest(1, 0, "fake", "0000", {"gt": gt}, {})).activations
    return sent["dh_real"]


def test_the_noise_of_a_batch_cannot_be_read_alone_and_subtracted(tmp_path: Path) -> None:
    """Under a head that makes zeros of all images it answers with noise alone: subtracted, 5 dB became 147 dB."""
    config = small(
        tmp_path,
        num_supernodes=2,
        data__max_images=60,
        partition="iid",
        split_gan__activation_noise=1.0,
        **SETTINGS,
    )
    client = here_is(config, tmp_path, 0)
    assert isinstance(client, HuscfGanClient)
    weights = {name: value.cpu().clone() for name, value in client.open_round(1, "0000", {}).half.blocks().items()}
    zeroed = dict(weights)
    for name, value in weights.items():
        if name.startswith("discriminator.0.") and not name.endswith(("running_mean", "running_var", "tracked")):
            zeroed[name] = torch.zeros_like(value)
    noise, noised = session(client, zeroed), session(client, weights)
    assert float(noise.std()) > 0.5
    half, batch = client.open_round(1, "0000", weights).half, client._batches().draw(1, 0)
    half.begin(batch)
    clean = half._d_head("dh_real", batch.x).detach()
    left = (noised - noise - clean).square().mean()
    assert float(left) > 1.5, "the two have noise of their own, which adds up"
    assert float((noised - clean).square().mean()) < 1.3


def a_half(gain: float = 1.0) -> ClientHalf:
    """A client's half whose head multiplies what it makes of images by `gain`, as the operator may have it."""
    optim = OptimConfig(Runtime(torch.device("cpu"), torch.float32))
    half = ClientHalf(build_architecture(1, 8, 3, width=8), Cuts(), ("half",), optim)
    for module in half.parts["d_head"].modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.mul_(gain)
    return half


def shown(half: ClientHalf, x: Tensor, noise: float = 1.0) -> Tensor:
    """What a server is shown of images."""
    drawn = torch.Generator().manual_seed(0)
    labels = torch.arange(len(x)) % 3
    batch = Batch(x, labels, torch.zeros(len(x), 100), lambda _, h: noise * torch.randn(h.shape, generator=drawn))
    half.begin(batch)
    return half.answer("fake", {"gt": torch.zeros((len(x), 8, 8, 8))})["dh_real"]


IMAGES = torch.rand((ROWS, 1, 8, 8), generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("gain", [1e-3, 1.0, 1e6, 1e30, 3e38])
def test_no_gain_makes_the_noise_vanish(gain: float) -> None:
    """Noise was absolute: behind gains of 10^6 activations arrived at 120 dB, and images with them."""
    half = a_half(gain)
    sent, clean = shown(half, IMAGES), half.tape.dh["dh_real"].detach()
    values = clean[0].numel()
    assert clean.flatten(1).norm(dim=1).max() <= values**0.5 * (1 + 1e-5)
    noise = (sent - clean).square().mean()
    assert float(noise) == pytest.approx(1, rel=0.1)
    assert float(clean.square().mean() / noise) < 1.1


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_overflows_leaves_as_noise(value: float) -> None:
    """Whether a row overflowed, at weights of the operator's choice, was a bit about its image without any noise."""
    rows = torch.ones((3, 2, 2, 2))
    rows[1, 0, 0, 0] = value
    bounded = clip_rows(rows)
    assert bounded[1].abs().max() == 0
    assert torch.allclose(bounded[0], rows[0])


def test_an_image_shows_in_its_own_row_alone() -> None:
    """By the statistics of its batch one image showed in all rows, each with noise of its own to average."""
    first, other = IMAGES, IMAGES.clone()
    other[3] = -1
    a, b = shown(a_half(1e6), first, noise=0.0), shown(a_half(1e6), other, noise=0.0)
    changed = [row for row in range(ROWS) if not torch.equal(a[row], b[row])]
    assert changed == [3]


def test_a_bounded_row_trains_the_head_as_its_equation_says() -> None:
    """The gradient goes through the bound, h min(1, sqrt(d) / |h|), as autograd has it in float64."""
    for scale in (0.1, 1.0, 30.0):
        h = (scale * torch.randn((4, 2, 3, 3), generator=torch.Generator().manual_seed(2))).requires_grad_()
        plain = h.detach().double().requires_grad_()
        norm = plain.flatten(1).norm(dim=1).clamp(min=18**0.5)[:, None, None, None]
        wanted = plain * 18**0.5 / norm
        got, weights = clip_rows(h), torch.randn((4, 2, 3, 3), generator=torch.Generator().manual_seed(3))
        assert torch.allclose(got.double(), wanted, rtol=1e-5)
        (got * weights).sum().backward()
        (wanted * weights).sum().backward()
        assert h.grad is not None
        assert plain.grad is not None
        assert torch.allclose(h.grad.double(), plain.grad, rtol=1e-4, atol=1e-6)
    zeros = torch.zeros((1, 4), requires_grad=True)
    clip_rows(zeros).sum().backward()
    assert zeros.grad is not None
    assert zeros.grad.isfinite().all()


def test_activations_leave_on_a_grid() -> None:
    """The last bits of a float that is a sum tell what was added."""
    sent = shown(a_half(), IMAGES)
    assert torch.equal(sent, torch.round(sent * 4096) / 4096)


def test_equal_heads_in_two_runs_do_not_answer_alike(tmp_path: Path) -> None:
    """Noise of a batch's place and content was the same in every run.

    Equal answers said that two heads, one of which makes zeros of everything, make exactly the same of the images.
    """
    node = Node(tmp_path, POLICY, some_images(20, 16))
    settings: dict[str, Any] = SETTINGS | {"split_gan__activation_noise": 1.0}
    gt, answers = torch.zeros((ROWS, 8, 16, 16)), []
    for run in (1, 2):
        for phase, tensors in (("latent", {}), ("fake", {"gt": gt})):
            request = SplitRequest(1, 0, phase, "0000", tensors, {})
            reply = node.ask("train.split", request, ActivationsReply, run, **settings)
        answers.append(reply.activations["dh_real"])
    assert answers[0].shape == answers[1].shape
    assert not torch.equal(*answers)


def ask(node: Node, round_: int = 1, cuts: str = "0000", **settings: Any) -> Any:
    request = SplitRequest(round_, 0, "latent", cuts, {}, {})
    return node.ask("train.split", request, ActivationsReply, **(SETTINGS | settings))


def test_a_round_has_one_session(tmp_path: Path) -> None:
    node = Node(tmp_path, POLICY, some_images(20, 16))
    assert not isinstance(ask(node), ClientError)
    assert isinstance(ask(node), ClientError)
    assert not isinstance(ask(node, 2), ClientError)
    assert isinstance(ask(node, 1), ClientError)


def test_cuts_are_those_of_the_settings(tmp_path: Path) -> None:
    """Settings that said 0010 and a message that said 0000 were answered at 0000, nearer to the images."""
    node = Node(tmp_path, POLICY, some_images(20, 16))
    assert isinstance(ask(node, split_gan__client_cuts="0010"), ClientError)
    assert not isinstance(ask(node, 2, "0010", split_gan__client_cuts="0010"), ClientError)
    end = EndRoundRequest(2, "0000", {})
    assert isinstance(node.ask("train", end, ActivationsReply, **SETTINGS), ClientError)


def test_samples_are_begun_and_finished_at_the_cuts_of_the_settings(tmp_path: Path) -> None:
    """Both halves of samples were made at whatever cuts the messages said, each at its own."""
    node = Node(tmp_path, POLICY, some_images(20, 16))
    settings: dict[str, Any] = SETTINGS | {"split_gan__client_cuts": "1010", "evaluation__num_samples": 4}

    optim = OptimConfig(Runtime(torch.device("cpu"), torch.float32))

    def begin(round_: int, cuts: str, sends: bool = True) -> Any:
        weights = (
            ClientHalf(build_architecture(1, 16, 3, width=8), Cuts.parse(cuts), ("half",), optim).blocks()
            if sends
            else {}
        )
        request = GenerateHeadRequest(round_, 4, cuts, weights)
        return node.ask("evaluate.latent", request, ActivationsReply, **settings)

    def finish(round_: int, cuts: str) -> Any:
        request = GenerateTailRequest(round_, cuts, {"gt": torch.zeros((4, 8, 16, 16))})
        return node.ask("evaluate", request, EvaluateReply, **settings)

    assert isinstance(begin(1, "1000"), ClientError)
    assert isinstance(begin(2, "1000", sends=False), ClientError)
    assert not isinstance(begin(3, "1010"), ClientError)
    assert isinstance(finish(3, "1000"), ClientError)
    assert not isinstance(finish(4, "1010"), ClientError)


def test_an_owner_sets_the_least_noise(tmp_path: Path) -> None:
    """The operator's settings said how much there is, be it none."""
    node = Node(tmp_path, POLICY + "min_activation_noise = 0.5\n", some_images(20, 16))
    for round_, noise in ((1, 0.0), (2, 0.49)):
        assert "`min_activation_noise` = 0.5" in ask(node, round_, split_gan__activation_noise=noise).reason
    assert not isinstance(ask(node, 3, split_gan__activation_noise=0.5), ClientError)


def test_an_owner_keeps_blocks_to_itself(tmp_path: Path) -> None:
    node = Node(tmp_path, POLICY + "min_discriminator_blocks = 1\n", some_images(20, 16))
    assert "`min_discriminator_blocks` = 1" in ask(node).reason
    assert not isinstance(ask(node, 2, "0010", split_gan__client_cuts="0010"), ClientError)


def test_activations_leave_no_more_often_than_the_owner_says(tmp_path: Path) -> None:
    """Each answer has noise of its own: the mean of those of n runs had sqrt(n) times less of it."""
    node = Node(tmp_path, POLICY + "max_activation_rounds = 2\n", some_images(16, 16))
    answers = [
        node.ask("train.split", SplitRequest(1, 0, "latent", "0000", {}, {}), ActivationsReply, run=run, **SETTINGS)
        for run in (1, 2, 3)
    ]
    assert [type(answer) for answer in answers] == [ActivationsReply, ActivationsReply, ClientError]
    assert "`max_activation_rounds` = 2" in answers[-1].reason
    # What has begun within the limit is not cut off in the middle: this is refused for its phase, not for the policy.
    end = node.ask("train", EndRoundRequest(1, "0000", {}), EndRoundReply, run=2, **SETTINGS)
    assert isinstance(end, EndRoundReply) or "max_activation_rounds" not in end.reason


@pytest.mark.parametrize("run", [1, 2])
def test_a_round_is_gone_on_with_by_the_run_and_the_settings_that_began_it(tmp_path: Path, run: int) -> None:
    """Images left without noise under other settings, and the ledger had the noise of the first ones."""
    node = Node(tmp_path, POLICY, some_images(20, 16))
    settings = SETTINGS | {"output": "runs/one"}
    begin, noised = SplitRequest(1, 0, "latent", "0000", {}, {}), settings | {"split_gan__activation_noise": 1.0}
    assert isinstance(node.ask("train.split", begin, ActivationsReply, **noised), ActivationsReply)
    fake = SplitRequest(1, 0, "fake", "0000", {"gt": torch.zeros((ROWS, 8, 16, 16))}, {})
    assert isinstance(node.ask("train.split", fake, ActivationsReply, run=run, **settings), ClientError)
    assert isinstance(node.ask("train.split", fake, ActivationsReply, **noised), ActivationsReply)
