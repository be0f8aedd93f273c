"""An operator of the split GAN who asks for a batch twice, or for other cuts than were agreed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collafuse_flwr.client.huscf_gan import HuscfGanClient
from collafuse_flwr.wire.codec import ClientError
from collafuse_flwr.wire.split_gan import ActivationsReply, EndRoundRequest, SplitRequest
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
    half = client.open_round(1, "0000", weights).half
    half.begin(client._batches().draw(1, 0))
    batch = client._batches().draw(1, 0)
    clean = half.parts["d_head"](batch.x, batch.labels).detach()
    left = (noised - noise - clean).square().mean()
    assert float(left) > 1.5, "the two have noise of their own, which adds up"
    assert float((noised - clean).square().mean()) < 1.3


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


def test_an_owner_keeps_blocks_to_itself(tmp_path: Path) -> None:
    node = Node(tmp_path, POLICY + "min_discriminator_blocks = 1\n", some_images(20, 16))
    assert "`min_discriminator_blocks` = 1" in ask(node).reason
    assert not isinstance(ask(node, 2, "0010", split_gan__client_cuts="0010"), ClientError)
