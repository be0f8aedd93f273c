"""The bench beside the authors' loop: equal images, factors that make up the ratio, and a loop that trains."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from collafuse_flwr.diffusion.schedule import cosine
from simulations.bench import authors_app, authors_loop
from simulations.bench.reference_ddpm import DdpmLoop, Network
from simulations.bench.reference_unet import PlainUNet
from tests.commands import refused


def test_the_command_measures_shows_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "authors.json"
    # The app's round takes 2 s, theirs 12 s, and 8 s with our network: at 10 image updates in ours, 20 in theirs.
    ticks: Iterator[int] = itertools.accumulate(itertools.cycle([0, 2, 0, 12, 0, 8]))
    monkeypatch.setattr(authors_app, "time", SimpleNamespace(process_time=lambda: float(next(ticks))))
    assert authors_loop.main(["sizes=8", "clients=1", "batch=2", "rounds=1", f"output={output}"]) == 0
    assert "times as fast" in capsys.readouterr().out
    (row,) = json.loads(output.read_text())["rows"]
    assert {name: row[name]["median"] for name in authors_loop.RATIOS} == pytest.approx(
        {"ratio": 6.0, "work": 2.0, "network": 1.5, "loop": 2.0}
    )
    assert (row["ours"], row["theirs"]) == pytest.approx((0.2, 1.2))


def test_the_network_has_the_published_size_and_keeps_the_shape() -> None:
    network = PlainUNet(3)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(2.44e6, rel=0.01)
    x = torch.randn(2, 3, 16, 16)
    assert network(x, torch.tensor([1, 50])).shape == x.shape
    network(x, torch.tensor([1, 50])).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


class _Scale(nn.Module):
    """Predicts w x_t, and notes what it is called on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[tuple[float, Tensor]] = []

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.seen.append((x_t.std().item(), t))
        return self.weight * x_t


def test_every_image_trains_both_networks_each_on_its_part_of_the_chain() -> None:
    built: list[_Scale] = []

    def build() -> Network:
        built.append(_Scale())
        return built[-1], built[-1]

    loop = DdpmLoop(build, {0: torch.zeros(5, 1, 8, 8), 1: torch.zeros(5, 1, 8, 8)}, cosine(100), 20, 4)
    assert loop.round({0: 3, 1: 2}) == 2 * 4 * (3 + 2)
    server, *clients = built
    assert [len(client.seen) for client in clients] == [3, 2]
    assert len(server.seen) == 5
    assert all(t.min() >= 1 and t.max() <= 20 for client in clients for _, t in client.seen)
    assert all(t.min() >= 21 and t.max() <= 100 for _, t in server.seen)
    # Of images of zeros only noise is left, and the server's is noised on top of a client's.
    assert max(std for client in clients for std, _ in client.seen) < min(std for std, _ in server.seen)
    assert all(network.weight != 1 for network in built)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("sizes=32,0", "`sizes` = '32,0' is not allowed: whole numbers above 0"),
        ("sizes=12", "`image_size` = 12 is not allowed: a multiple of 8"),
        ("batch=0", "`batch` = 0 is not allowed: a whole number >= 1"),
        ("size=8", "`size` = 8 is not allowed: no such setting"),
    ],
)
def test_a_mistake_is_refused_in_one_line(wrong: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert authors_loop.main([wrong, "clients=1", "batch=2"][: 1 if wrong == "batch=0" else None]) == 2
    assert message in refused(capsys)
