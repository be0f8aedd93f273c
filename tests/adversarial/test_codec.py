"""An operator who has images leave as latents, of the codec that its owner pins or of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from collafuse_flwr import client_app
from collafuse_flwr.data.codec import SHA256, codec_digest
from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.wire.codec import ClientError
from collafuse_flwr.wire.collafuse import SampleHandoff
from collafuse_flwr.wire.common import EvaluateReply
from collafuse_flwr.wire.generation import Generated, GenerateHandoff
from tests.adversarial.node import OPEN, Node
from tests.codecs import write_codec

CUT: dict[str, Any] = {"cut_ratio": 0.5}
BEYOND = "beyond the policy of this client's owner: "


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    return write_codec(tmp_path / "codec")


def named(codec: Path) -> str:
    return f"{SHA256}{codec_digest(codec)}"


def node(folder: Path, codec: Path, policy: str) -> Node:
    folder.mkdir(exist_ok=True)
    made = Node(folder, policy)
    made.node["codec-path"] = str(codec)
    return made


def reason(reply: Any) -> str:
    assert isinstance(reply, ClientError), reply
    return reply.reason


def pinning(codec: Path, rest: str = "max_snr_db = 100\n") -> str:
    return f'codec = "{codec_digest(codec)}"\n{rest}'


def test_without_a_pin_no_latents_leave(tmp_path: Path, codec: Path) -> None:
    """Nor is a folder read that the operator names, be it the codec's own."""
    client = node(tmp_path, codec, "max_snr_db = 100\n")
    for value in (named(codec), str(codec)):
        assert f"{BEYOND}`codec` =" in reason(client.train(codec=value, **CUT))
    assert reason(client.train(codec=SHA256, **CUT)) == client_app.MASKED
    assert Ledger(client.state / "ledger.jsonl").releases == []


def test_the_pinned_codec_alone_is_used(tmp_path: Path, codec: Path) -> None:
    other = write_codec(tmp_path / "other", seed=1)
    client = node(tmp_path, codec, pinning(codec))
    assert f"{BEYOND}`codec` = {codec_digest(codec)}" in reason(client.train(codec=named(other), **CUT))
    client.node["codec-path"] = str(other)
    assert reason(client.train(codec=named(codec), **CUT)) == client_app.MASKED
    del client.node["codec-path"]
    assert reason(client.train(codec=named(codec), **CUT)) == client_app.MASKED
    assert Ledger(client.state / "ledger.jsonl").releases == []


def test_what_leaves_is_a_noised_latent_on_one_path(tmp_path: Path, codec: Path) -> None:
    """A node that is started again, at another cut, releases on the same path."""
    client = node(tmp_path, codec, pinning(codec, OPEN))
    uploads = [client.upload(run=run, codec=named(codec), cut_ratio=cut) for run, cut in ((1, 0.5), (2, 0.6))]
    assert all(upload is not None and upload.shape == (16, 4, 4, 4) for upload in uploads)
    exposure = Ledger(client.state / "ledger.jsonl").exposure()
    assert exposure.releases == 1
    (release,) = {own.codec for own in Ledger(client.state / "ledger.jsonl").releases}
    assert release == codec_digest(codec)


def test_pixels_after_latents_are_a_second_release(tmp_path: Path, codec: Path) -> None:
    """By default the second is refused as another kind; where kinds are listed, as one release too many."""
    client = node(tmp_path / "default", codec, pinning(codec))
    assert client.upload(codec=named(codec), **CUT) is not None
    assert f"{BEYOND}`datasets` does not list `dataset` = npz" in reason(client.train(run=2, **CUT))
    assert client.upload(3, run=1, codec=named(codec), cut_ratio=0.6) is not None

    listed = node(tmp_path / "listed", codec, pinning(codec, 'datasets = ["npz"]\nmax_snr_db = 100\n'))
    assert listed.upload(**CUT) is not None
    assert f"{BEYOND}`max_releases` = 1" in reason(listed.train(run=2, codec=named(codec), **CUT))

    both = node(tmp_path / "both", codec, pinning(codec, OPEN + 'datasets = ["npz"]\n'))
    for run, value in ((1, ""), (2, named(codec))):
        assert both.upload(run=run, codec=value, **CUT) is not None
    ledger = Ledger(both.state / "ledger.jsonl")
    alone = [ledger.exposure(own).mu for own in ledger.releases]
    assert ledger.exposure().releases == 2
    assert ledger.exposure().mu == pytest.approx(alone[0])


def test_two_codecs_of_one_shape_are_two_releases(tmp_path: Path, codec: Path) -> None:
    """Their latents of an image have two names, and so two paths, which compose."""
    client = node(tmp_path, codec, pinning(codec, OPEN + 'datasets = ["npz"]\n'))
    assert client.upload(codec=named(codec), **CUT) is not None
    other = write_codec(tmp_path / "other", seed=1)
    (tmp_path / "policy.toml").write_text(pinning(other, OPEN + 'datasets = ["npz"]\n'))
    client.node["codec-path"] = str(other)
    assert client.upload(run=2, codec=named(other), **CUT) is not None
    assert Ledger(client.state / "ledger.jsonl").exposure().releases == 2


def test_images_that_it_generates_are_decoded_on_its_own_disk(tmp_path: Path, codec: Path) -> None:
    client, given = node(tmp_path, codec, pinning(codec)), {"output": "/data/run", "codec": named(codec), **CUT}
    assert not isinstance(client.train(**given), ClientError)
    handoff = SampleHandoff(round=1, x_k=torch.zeros(2, 4, 4, 4))
    assert not isinstance(client.ask("evaluate", handoff, EvaluateReply, **given), ClientError)
    wanted = GenerateHandoff(round=1, x_k=torch.zeros(3, 4, 4, 4), label=-1, guidance=1.0, seed=0)
    settings = {"task": "generate", "output": "/data/run"}
    path = client.node.pop("codec-path")
    assert reason(client.send("query.generate", wanted, Generated, settings, 8)) == client_app.MASKED
    client.node["codec-path"] = path
    assert client.send("query.generate", wanted, Generated, settings, 9) == Generated(3)
    sizes = set()
    for image in client.state.glob("generated/*/*/*-class-*.png"):
        with Image.open(image) as picture:
            sizes.add(picture.size)
    assert sizes == {(8, 8)}
