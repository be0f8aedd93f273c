"""A secret that is not one, and errors that talk."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict

from collafuse_flwr import client_app
from collafuse_flwr.client.gan_base import GanClient
from collafuse_flwr.client.policy import Policy
from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SecretError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.wire.common import ClientInfo, ClientInfoRequest
from tests.adversarial.node import OPEN, Node, some_images


@pytest.mark.parametrize("length", [0, 1, 8, 15, 17])
def test_a_damaged_secret_is_refused_and_stays(tmp_path: Path, length: int) -> None:
    """An empty one keys nothing: whoever guesses an image makes its upload again."""
    (tmp_path / "secret").write_bytes(b"x" * length)
    with pytest.raises(SecretError, match=f"holds {length} bytes, not 16"):
        ClientStore(tmp_path).secret(None, 0)
    assert (tmp_path / "secret").read_bytes() == b"x" * length, "a new one would let every image leave once more"


def test_a_secret_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash it was an empty file, or gone: a new one would let every image leave once more."""
    did: list[tuple[str, int]] = []
    sync, link = os.fsync, os.link

    def synced(descriptor: int) -> None:
        status = os.fstat(descriptor)
        did.append(("folder", 0) if stat.S_ISDIR(status.st_mode) else ("file", status.st_size))
        sync(descriptor)

    def linked(source: Path, target: Path) -> None:
        did.append(("named", source.stat().st_size))
        link(source, target)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr("os.link", linked)
    assert len(ClientStore(tmp_path).secret(None, 0)) == 16
    assert did == [("file", 16), ("named", 16), ("folder", 0)]


def _made(folder: str) -> bytes:
    return ClientStore(Path(folder)).secret(None, 0)


def test_processes_that_start_at_once_have_one_secret(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        made = pool.map(_made, [str(tmp_path / str(i // 4)) for i in range(40)], chunksize=1)
    for i in range(10):
        assert len(set(made[4 * i : 4 * i + 4])) == 1
        assert [path.name for path in (tmp_path / str(i)).iterdir()] == ["secret"]
        assert stat.S_IMODE((tmp_path / str(i) / "secret").stat().st_mode) == 0o600


@pytest.mark.parametrize("error", [OSError("/home/me/patients/12.png"), ValueError("Smith, John"), KeyError("12")])
def test_no_error_of_a_client_with_data_of_its_own_says_anything(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither its text nor its kind, which may hang on the images, leaves; the client's log has both."""

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(client_app, "load_client_data", fails)
    refusal = Node(tmp_path).ask("query.client_info", ClientInfoRequest(), ClientInfo)
    assert refusal.reason == client_app.MASKED
    assert str(error.args[0]) in capsys.readouterr().err


def test_no_seed_that_could_be_tried_gives_a_stream_of_a_deployed_client(tmp_path: Path) -> None:
    """A CPU's generator takes 32 bits of a seed: rows, steps and noise were one of 2^32, which a loss tells apart."""
    node = Node(tmp_path, OPEN + 'weights = "always"\n', some_images(20, 16))
    config = Config.from_flat(node.run_config(strategy="fedgan"))
    limits = Policy.load(Path(node.node["policy"]))
    client = client_app._client(config, Context(1, 1, node.node, RecordDict(), config.to_flower()), limits)
    assert isinstance(client, GanClient)
    streams = {
        "rows, steps and noise of a round": named_generator(client._root(), "client", 0, "round", 1),
        "of the held-out loss": named_generator(client._seed("held out")),
        "codes of samples": client._stream("sample codes", 1),
        "rows and codes of a batch": client._batches()._stream("codes", 1, 0),
    }
    for name, stream in streams.items():
        tried = torch.Generator().manual_seed(stream.initial_seed() % 2**32)
        assert not torch.equal(torch.rand(8, generator=stream), torch.rand(8, generator=tried)), name
