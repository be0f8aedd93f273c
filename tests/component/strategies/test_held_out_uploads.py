"""Uploads that the backbone is measured on: never trained on, and what keeps it from learning the others by heart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.data.images import ImageSource
from collafuse_flwr.diffusion.forward import add_noise
from collafuse_flwr.diffusion.loss import loss_scale
from collafuse_flwr.runs.loaded_run import load_trained
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.runs.upload_buffer import UploadBuffer
from collafuse_flwr.setup.diffusion import diffusion_setup
from strategies.held_out_uploads import DRAWS, held_out_counts, held_out_loss
from strategies.server_model import Backbone
from tests.small_runs import federate, metrics, small

OUT: dict[str, Any] = {"server.holdout_fraction": 0.2, "server.batch_size": 16, "model": "nano"}


class Uploads(ImageSource):
    """Samples at a cut, in memory."""

    cut: int

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, start, labels = super().batch(rows)
        return x, start + self.cut, labels


def uploads(x: Tensor, cut: int) -> Uploads:
    made = Uploads(x, torch.arange(len(x)) % 10)
    object.__setattr__(made, "cut", cut)
    return made


@given(st.dictionaries(st.integers(0, 99), st.integers(1, 60), min_size=1), st.floats(0.01, 0.5), st.integers(0, 9))
def test_a_part_of_each_client_s_uploads_is_held_out_and_never_all(
    sizes: dict[int, int], fraction: float, seed: int
) -> None:
    counts = held_out_counts(sizes, fraction, seed)
    assert counts.keys() == sizes.keys()
    assert all(0 <= counts[client] < rows for client, rows in sizes.items())
    assert all(abs(counts[client] - fraction * rows) < 1 for client, rows in sizes.items() if rows > 1)
    # Whoever else is there, so that none moves from one side to the other.
    assert all(
        held_out_counts({client: rows}, fraction, seed)[client] == counts[client] for client, rows in sizes.items()
    )
    assert not any(held_out_counts(sizes, 0.0, seed).values())


def test_of_many_clients_with_few_uploads_as_many_are_held_out_in_all() -> None:
    assert 80 <= sum(held_out_counts(dict.fromkeys(range(1000), 2), 0.05, 0).values()) <= 120


@pytest.mark.parametrize("cut", [0, 6, 14])
def test_the_loss_of_standard_normal_uploads_is_one_for_the_ideal_network(cut: int) -> None:
    """With v = 0 the error is r noise - sqrt(r (1 - r)) x_k, of variance r; over alpha_bar_t, times alpha_bar_k: 1."""

    class Ideal(nn.Module):
        def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
            return torch.zeros_like(x)

    setup = diffusion_setup(Config.from_flat({"diffusion.timesteps": 20, "device": "cpu"}))
    x = torch.randn((DRAWS, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    scale = loss_scale(setup.schedule, setup.objective, torch.tensor([cut]))
    assert held_out_loss(setup, Ideal(), uploads(x, cut), scale) == pytest.approx(1.0, rel=0.02)


def test_of_more_uploads_than_are_measured_every_client_has_its_share() -> None:
    seen: list[Tensor] = []

    class Watched(ImageSource):
        def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
            seen.append(rows)
            return super().batch(rows)

    setup = diffusion_setup(Config.from_flat({"diffusion.timesteps": 20, "device": "cpu", "model": "nano"}))
    count = 3 * DRAWS + 7
    held_out_loss(setup, setup.backbone(1, 8, 10), Watched(torch.zeros(count, 1, 8, 8), torch.zeros(count).long()), 1.0)
    rows = torch.cat(seen)
    assert len(rows.unique()) == DRAWS
    assert torch.histc(rows.double(), 8, 0, count - 1).min() >= DRAWS / 8 - 2


def test_no_client_is_most_of_what_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a share is the most that one may have, of uploads that are held out as well."""
    seen: list[dict[int, int]] = []
    last = UploadBuffer.last

    def noted(pool: UploadBuffer, counts: dict[int, int]) -> Any:
        seen.append(counts)
        return last(pool, counts)

    monkeypatch.setattr(UploadBuffer, "last", noted)
    strategy = federate(
        small(tmp_path, **OUT | {"server.holdout_fraction": 0.5}, federation__max_client_weight=0.35, num_rounds=1)
    )
    out = held_out_counts(strategy.pool.sizes(), 0.5, 0)
    assert max(out.values()) > 0.38 * sum(out.values())
    (counts,) = seen
    assert counts.keys() == out.keys()
    assert max(counts.values()) <= 0.35 * sum(counts.values()) + 1
    assert all(counts[client] <= out[client] for client in out)


def test_what_is_held_out_is_trained_on_in_no_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Tensor] = []
    measured: list[Tensor] = []

    def batch(pool: UploadBuffer, rows: Tensor) -> Any:
        (measured if not torch.is_grad_enabled() else trained).append(rows)
        return plain(pool, rows)

    plain = UploadBuffer.batch
    monkeypatch.setattr(UploadBuffer, "batch", batch)
    strategy = federate(small(tmp_path, **OUT, num_rounds=3, train__local_epochs=4.0))
    fit, held_out = (set(torch.cat(rows).tolist()) for rows in (trained, measured))
    assert fit | held_out == set(range(len(strategy.pool)))
    assert not fit & held_out
    assert len(held_out) == sum(held_out_counts(strategy.pool.sizes(), 0.2, 0).values())
    assert 0.15 < len(held_out) / len(strategy.pool) < 0.25


def test_the_best_weights_are_those_that_clients_and_disks_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the start and four more, two in each round, the third is the best, which is measured again in the second."""
    losses, seen = iter([5.0, 3.0, 1.0, 1.0, 2.0, 4.0]), []

    def measure(setup: object, network: nn.Module, source: object, scale: float) -> float:
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        return next(losses)

    monkeypatch.setattr("strategies.server_model.held_out_loss", measure)
    monkeypatch.setattr("strategies.server_model.EVERY", 4)
    strategy = federate(small(tmp_path, **OUT, train__local_epochs=1.4))
    assert next(losses, None) is None
    kept = strategy.backbone.arrays().to_torch_state_dict()
    assert all(torch.equal(value, seen[2][name]) for name, value in kept.items())
    assert all(torch.equal(seen[2][name], seen[3][name]) for name in kept)
    assert not all(torch.equal(seen[2][name], seen[5][name]) for name in kept)
    assert [row["server"]["held_out_loss"] for row in metrics(tmp_path)] == [1.0, 1.0]
    strategy.save()
    fresh = Backbone(strategy.config, strategy.setup, 1, 8, 10)
    saved = load_trained(fresh.network, RunLayout(tmp_path).backbone).state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in saved.items())


def test_a_backbone_that_learns_its_uploads_by_heart_is_kept_from_it(tmp_path: Path) -> None:
    """Thirty uploads, two thousand steps: what was trained last is worse on new ones than what is kept."""
    config = small(tmp_path, **OUT, diffusion__timesteps=100, cut_ratio=0.7)
    setup, generator = diffusion_setup(config), torch.Generator().manual_seed(0)
    images = torch.where(torch.rand((130, 1, 8, 8), generator=generator) < 0.5, -1.0, 1.0)
    zeros = torch.zeros(130, dtype=torch.int64)
    x_k = add_noise(setup.schedule, images, zeros, zeros + 70, torch.randn(images.shape, generator=generator))
    fit, held_out, new = (uploads(part, 70) for part in (x_k[:30], x_k[30:40], x_k[40:]))
    scale = loss_scale(setup.schedule, setup.objective, zeros[:1] + 70)
    backbone = Backbone(config, setup, 1, 8, 10)
    work = backbone.train(fit, 1, 1, 2000, Progress(quiet=True), loss_scale=scale, held_out=held_out)
    assert (work.steps, work.image_updates) == (2000, 32000)
    assert backbone.best is not None
    last, kept = (backbone._measure(w, new, scale) for w in (backbone.state.ema_state_dict(), backbone.best))
    assert kept < 0.97 * last


@pytest.mark.parametrize("noise", ["resampled", "official"])
def test_copies_of_what_is_held_out_would_come_again(noise: str) -> None:
    with pytest.raises(SettingError, match=f"^`server.holdout_fraction` = 0.1 is not allowed: 0 when .* is {noise}"):
        Config.from_flat({"upload.noise": noise, "server.holdout_fraction": 0.1})


def test_copies_of_what_is_held_out_would_be_trained_on() -> None:
    with pytest.raises(SettingError, match=r"^`server.holdout_fraction` = 0.1 is not allowed: 0 when .*draws_per"):
        Config.from_flat({"upload.draws_per_image": 2, "server.holdout_fraction": 0.1})


def test_a_server_that_trains_on_clean_images_has_none_to_hold_out() -> None:
    with pytest.raises(
        SettingError,
        match=r"^`server.holdout_fraction` = 0.1 is not allowed: .* `strategy` = clean_server does not read it",
    ):
        Config.from_flat({"strategy": "clean_server", "server.holdout_fraction": 0.1})
