from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.diffusion.loss import Objective
from collafuse_flwr.diffusion.parametrization import DROPPED
from collafuse_flwr.diffusion.schedule import cosine
from collafuse_flwr.diffusion.train import (
    TimestepRange,
    TrainState,
    bernoulli_mask,
    cosine_rate,
    draw_batch,
    epoch_batches,
    random_hflip,
    train,
)


@dataclass(frozen=True)
class Images:
    x: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.x[rows], torch.zeros_like(rows), None


class Slopes:
    """Twenty images that rise from left to right, all of class 5."""

    def __len__(self) -> int:
        return 20

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x = torch.tensor([-0.9, -0.3, 0.3, 0.9]).expand(len(rows), 1, 4, 4)
        return x, torch.zeros_like(rows), torch.full_like(rows, 5)


def _state() -> TrainState:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TrainState(nn.Conv2d(1, 1, 3, padding=1), 0.9)


def _train(state: TrainState, name: int, steps: int) -> float:
    return train(
        state,
        lambda x, t, y: state.network(x),
        Images(torch.randn(10, 1, 4, 4, generator=torch.Generator().manual_seed(1))),
        schedule=cosine(20),
        objective=Objective(),
        steps_range=TimestepRange(20),
        batch_size=4,
        num_steps=steps,
        learning_rate=lambda _: 1e-2,
        generator=named_generator(name),
    ).loss


def test_training_lowers_the_loss() -> None:
    state = _state()
    first = _train(state, 0, 20)
    for name in range(1, 10):
        last = _train(state, name, 20)
    assert last < 0.9 * first


def test_going_on_from_saved_tensors_gives_the_same_bits() -> None:
    straight, resumed = _state(), _state()
    for name in (0, 1):
        _train(straight, name, 5)
    first = _state()
    _train(first, 0, 5)
    resumed.load(first.state_dict())
    _train(resumed, 1, 5)
    assert resumed.state_dict().keys() == straight.state_dict().keys()
    for key, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


def test_the_average_follows_its_recursion() -> None:
    state = _state()
    weight = next(iter(state.ema_state_dict())), state.network
    expected = weight[1].state_dict()[weight[0]].clone()
    for step in range(1, 6):
        _train(state, step, 1)
        decay = 0.0 if step == 1 else min(0.9, step / (9 + step))
        expected = decay * expected + (1 - decay) * state.network.state_dict()[weight[0]]
    torch.testing.assert_close(state.ema_state_dict()[weight[0]], expected)


def test_starting_from_weights_takes_what_fits() -> None:
    state = _state()
    state.init_from({"weight": torch.ones(1, 1, 3, 3), "bias": torch.ones(7), "unknown": torch.ones(1)})
    own = state.network.state_dict()
    assert (own["weight"] == 1).all()
    assert own["bias"].shape == (1,)
    assert torch.equal(state.ema_state_dict()["weight"], own["weight"])


def test_no_steps_change_nothing() -> None:
    state = _state()
    before = {name: value.clone() for name, value in state.state_dict().items()}
    assert _train(state, 0, 0) != _train(state, 0, 0)  # nan: there is no loss
    assert all(torch.equal(value, before[name]) for name, value in state.state_dict().items())


@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 10))
def test_batches_are_full_and_use_every_row_equally(rows: int, batch: int, batches: int) -> None:
    drawn = list(epoch_batches(rows, batch, batches, named_generator("test")))
    assert [len(b) for b in drawn] == [batch] * batches
    counts = torch.bincount(torch.cat(drawn), minlength=rows)
    assert int(counts.max() - counts.min()) <= 1


def test_rows_with_last_steps_of_their_own_are_trained_on_each_of_them() -> None:
    lasts = torch.tensor([1, 5, 20])
    rows = torch.tensor([2, 0, 1, 1, 2]).repeat(100)
    source, generator = Images(torch.zeros(3, 1, 2, 2)), named_generator("lasts")
    ranges = TimestepRange(20, lasts=lasts)
    _, _, t, _, _ = draw_batch(source, rows, ranges, generator, label_dropout=0, flip=False)
    assert all(set(t[rows == row].tolist()) == set(range(1, last + 1)) for row, last in enumerate(lasts.tolist()))


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 1.0), (0.5, 0.505), (1.0, 0.01), (1.5, 0.01)])
def test_the_rate_falls_along_half_a_cosine(progress: float, rate: float) -> None:
    assert cosine_rate(1.0, progress) == pytest.approx(rate)


@pytest.mark.parametrize(("dropout", "flip"), [(0.0, False), (0.5, False), (0.0, True), (0.3, True)])
def test_images_are_mirrored_and_labels_dropped_only_where_set(dropout: float, flip: bool) -> None:
    """At t = 1 of very many steps an image is nearly what it was, so the network sees which way round it is."""
    state, source = _state(), Slopes()
    seen: list[tuple[bool, int]] = []

    def denoise(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        rises = (x[:, 0, 0, -1] > x[:, 0, 0, 0]).tolist()
        seen.extend(zip(rises, labels.tolist(), strict=True))
        output: Tensor = state.network(x)
        return output

    train(
        state,
        denoise,
        source,
        schedule=cosine(1000),
        objective=Objective(),
        steps_range=TimestepRange(1),
        batch_size=20,
        num_steps=100,
        learning_rate=lambda _: 1e-3,
        generator=named_generator("flip"),
        label_dropout=dropout,
        flip=flip,
    )
    falls, dropped = [not rises for rises, _ in seen], [label == DROPPED for _, label in seen]
    # Of 2,000 a share has a standard deviation of 0.011.
    assert sum(falls) / 2000 == pytest.approx(0.5 * flip, abs=0.05 * flip)
    assert sum(dropped) / 2000 == pytest.approx(dropout, abs=0.05 * bool(dropout))
    assert {label for _, label in seen} == ({5, DROPPED} if dropout else {5})


def test_a_mirrored_image_that_is_noised_is_as_likely_as_the_noised_image_mirrored() -> None:
    """The very same numbers, if the noise is mirrored with it; so the server may mirror uploads."""
    x, noise = torch.randn(2, 6, 1, 4, 4, generator=named_generator("x"))
    coins = bernoulli_mask(len(x), 0.5, named_generator("mirror"))
    chosen = random_hflip(x, coins)
    assert torch.equal(random_hflip(0.6 * x + 0.8 * noise, coins), 0.6 * chosen + 0.8 * random_hflip(noise, coins))
    assert all(torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in zip(chosen, x, strict=True))
