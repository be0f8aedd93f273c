"""DP-SGD: gradients of single images against a loop, noise and batches against their laws, a step against Adam's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.rng import keyed_generator, named_generator
from collafuse_flwr.core.runtime import choose_runtime
from collafuse_flwr.data.images import ImageSource
from collafuse_flwr.diffusion import dp_sgd as module
from collafuse_flwr.diffusion import train as training
from collafuse_flwr.diffusion.dp_sgd import DpSgdConfig, clipped_gradient_sum, sampling_rate, train_dp_sgd
from collafuse_flwr.diffusion.loss import Objective, denoising_loss
from collafuse_flwr.diffusion.parametrization import DROPPED
from collafuse_flwr.diffusion.schedule import cosine
from collafuse_flwr.diffusion.train import TrainResult, TrainState
from collafuse_flwr.diffusion.unet import ImageShape, as_denoise, build_network

SCHEDULE = cosine(20)
SECRET = b"0123456789abcdef"


def made() -> TrainState:
    """A small network whose first weights are not trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, last = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)
    first.weight.requires_grad_(False)
    return TrainState(nn.Sequential(first, nn.GroupNorm(1, 2), last), 0.9)


def some_images(count: int = 12, seed: int = 0) -> ImageSource:
    x = torch.randn(count, 1, 4, 4, generator=named_generator("x", seed)).clamp(-1, 1)
    return ImageSource(x, torch.arange(count) % 3)


def a_batch(count: int) -> list[Tensor]:
    """x, start, t and noise; the images differ much in what they would change."""
    x = torch.randn(count, 1, 4, 4, generator=named_generator("batch")) * torch.arange(count).view(-1, 1, 1, 1)
    t = torch.arange(count) % 20 + 1
    return [x, torch.zeros_like(t), t, torch.randn(x.shape, generator=named_generator("noise"))]


def loss_of(state: TrainState) -> Any:
    def loss(x: Tensor, start: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        return denoising_loss(SCHEDULE, Objective(), lambda x, t, y: state.network(x), x, start, t, noise, labels)

    return loss


def trained(state: TrainState, steps: int, source: ImageSource | None = None, **changes: Any) -> TrainResult:
    dp = DpSgdConfig(changes.pop("norm", 0.5), changes.pop("sigma", 1.0), changes.pop("secret", SECRET))
    settings: dict[str, Any] = {"last": 20, "batch_size": 4, "num_steps": steps, "dp": dp} | changes
    return train_dp_sgd(
        state,
        settings.pop("denoise", lambda x, t, y: state.network(x)),
        source or some_images(),
        schedule=SCHEDULE,
        objective=Objective(),
        learning_rate=lambda _: 1e-2,
        **settings,
    )


def directions(monkeypatch: pytest.MonkeyPatch, state: TrainState) -> list[Tensor]:
    """Where to the following steps go, each as one vector."""
    seen: list[Tensor] = []

    def keep(gradients: Sequence[Tensor], learning_rate: float) -> None:
        seen.append(torch.cat([gradient.flatten() for gradient in gradients]))
        state.steps += 1

    monkeypatch.setattr(state, "apply_gradients", keep)
    return seen


@pytest.mark.parametrize("held", [1, 2**24])
@pytest.mark.parametrize("norm", [4.0, 1e9])
def test_clipped_gradients_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch, held: int, norm: float) -> None:
    monkeypatch.setattr(module, "_HELD_VALUES", held * 100)
    state, batch = made(), a_batch(7)
    loss, clipped, losses = loss_of(state), 0, 0.0
    expected = [torch.zeros_like(p) for p in state.parameters]
    for i in range(7):
        value = loss(*(part[i : i + 1] for part in batch))
        gradient = torch.autograd.grad(value, state.parameters)
        length = math.sqrt(sum(float(g.square().sum()) for g in gradient))
        clipped, losses = clipped + (length > norm), losses + value.item()
        for total, own in zip(expected, gradient, strict=True):
            total.add_(own * min(1, norm / length))
    ours, total_loss = clipped_gradient_sum(state, loss, batch, norm)
    assert 0 < clipped < 7 or norm == 1e9
    torch.testing.assert_close([own.float() for own in ours], expected)
    assert total_loss == pytest.approx(losses)


def test_an_empty_batch_has_no_gradient() -> None:
    state = made()
    ours, loss = clipped_gradient_sum(state, loss_of(state), [part[:0] for part in a_batch(3)], 1.0)
    assert not any(gradient.any() for gradient in ours)
    assert loss == 0


def test_without_noise_and_clipping_a_full_batch_is_an_ordinary_step(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, ours, adams = a_batch(12), made(), made()
    monkeypatch.setattr(module, "_batch", lambda *_, **__: batch)
    monkeypatch.setattr(training, "MAX_GRADIENT_NORM", 1e9)
    progress = trained(ours, 1, norm=1e9, sigma=1e-17, batch_size=12)
    loss = loss_of(adams)(*batch)
    adams.optimizer_step(loss, 1e-2)
    assert progress.loss == pytest.approx(loss.item())
    torch.testing.assert_close(ours.state_dict(), adams.state_dict(), rtol=1e-3, atol=1e-6)


def test_the_noise_has_the_deviation_of_sigma_times_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network that no image moves: its gradients are the noise alone, divided by the expected batch."""
    state = TrainState(nn.Linear(100, 40), 0.9)
    seen = directions(monkeypatch, state)
    trained(state, 10, sigma=3.0, denoise=lambda x, t, y: x)
    noise = torch.stack(seen)
    assert noise.shape == (10, 4040)
    # Of 40,400 the standard deviation of the deviation is 0.35 %.
    assert noise.std().item() == pytest.approx(3.0 * 0.5 / 4, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert float(torch.corrcoef(noise).fill_diagonal_(0).abs().max()) < 0.08


@pytest.mark.parametrize("change", [{"secret": b"another secret!!"}, {"seed": 1}, {"sigma": 1.001}, {"last": 19}])
def test_noise_is_never_used_again(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    """The same noise on another sum would give away their difference."""
    directions_of = []
    for settings in ({}, {}, dict(change)):
        state, source = made(), some_images(seed=settings.pop("seed", 0))
        seen = directions(monkeypatch, state)
        trained(state, 1, source, norm=1e-6, **({"sigma": 1.0} | settings))
        directions_of.append(seen[0] * 4e6)
    first, again, other = directions_of
    assert torch.equal(first, again)
    assert float((first - other).abs().mean()) > 0.5


def test_every_image_joins_by_itself_with_its_own_step() -> None:
    source, counts, steps = some_images(40), torch.zeros(40), []
    for i in range(400):
        x, start, t, noise, labels = module._batch(
            source,
            keyed_generator(SECRET, i.to_bytes(2)),
            torch.device("cpu"),
            q=0.25,
            last=7,
            label_dropout=0.5,
            flip=True,
        )
        assert len(x) == len(start) == len(t) == len(noise) == len(labels)
        counts += (source.images == x.unsqueeze(1)).flatten(2).all(2).any(0) if len(x) else 0
        counts += (source.images == x.unsqueeze(1).flip(-1)).flatten(2).all(2).any(0) if len(x) else 0
        steps.append(t)
        assert set(labels.tolist()) <= {0, 1, 2, DROPPED}
    # 100 of 400 draws with a standard deviation of 8.7; 4,000 in all with one of 55.
    assert 65 < counts.min() < counts.max() < 135
    assert counts.sum().item() == pytest.approx(4000, abs=250)
    shares = torch.bincount(torch.cat(steps), minlength=8)[1:] / len(torch.cat(steps))
    assert shares.tolist() == pytest.approx([1 / 7] * 7, abs=0.03)


def test_going_on_from_saved_tensors_gives_the_same_bits() -> None:
    straight, first, resumed = made(), made(), made()
    trained(straight, 6)
    trained(first, 4)
    resumed.load(first.state_dict())
    trained(resumed, 2)
    for key, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


def test_the_penalty_is_neither_clipped_nor_noised(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, pulled = made(), made()
    seen, with_pull = directions(monkeypatch, plain), directions(monkeypatch, pulled)
    trained(plain, 1)
    trained(pulled, 1, penalty=lambda: 50 * torch.stack([p.sum() for p in pulled.parameters]).sum())
    torch.testing.assert_close(with_pull[0] - seen[0], torch.full_like(seen[0], 50.0))


@pytest.mark.parametrize(("images", "q", "updates"), [(12, 1 / 3, 20), (3, 1.0, 15)])
def test_a_small_client_uses_all_images_and_nobody_tells_how_many_it_drew(images: int, q: float, updates: int) -> None:
    assert sampling_rate(4, images) == q
    assert trained(made(), 5, some_images(images)).images == updates


def attentive(shape: ImageShape) -> nn.Module:
    """A small U-Net with attention."""
    network: nn.Module = UNet2DModel(
        sample_size=shape.size,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",),
        norm_num_groups=8,
        num_class_embeds=shape.num_classes,
    )
    return network


@pytest.mark.parametrize("attributes", [0, 3])
def test_networks_with_attention_and_attributes_train(attributes: int) -> None:
    shape = ImageShape(1, 8, 3, attributes)
    network = build_network("nano", shape, 0, "a") if attributes else attentive(shape)
    state = TrainState(network, 0.9)
    labels = torch.ones(2, attributes, dtype=torch.uint8) if attributes else torch.arange(2)
    before, source = state.state_dict()["average"], ImageSource(torch.zeros(2, 1, 8, 8), labels)
    trained(state, 1, source, denoise=as_denoise(network, choose_runtime("cpu")))
    assert not torch.equal(before, state.state_dict()["average"])


def test_batch_normalisation_is_refused() -> None:
    with pytest.raises(SettingError, match=r"`dp.noise_multiplier` = 1\.0 .*: 0 for networks with batch"):
        trained(TrainState(nn.BatchNorm2d(1), 0.9), 1)
