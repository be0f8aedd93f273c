"""The average of a generator's weights over steps, in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from collafuse_flwr.gan.split_gan.weight_average import WeightAverage


def a_module() -> nn.BatchNorm1d:
    return nn.BatchNorm1d(1)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99])
def test_it_is_the_geometric_sum_of_past_weights(decay: float) -> None:
    module, weights = a_module(), [1.0, -2.0, 4.0, 0.5]
    average = WeightAverage(module, decay)
    for count, value in enumerate(weights):
        nn.init.constant_(module.weight, value)
        assert module.num_batches_tracked is not None
        module.num_batches_tracked.fill_(count)
        average.update()
    first, *others = weights
    steps = len(others)
    expected = decay**steps * first
    expected += sum((1 - decay) * decay ** (steps - 1 - t) * value for t, value in enumerate(others))
    assert average.tensors["weight"].item() == pytest.approx(expected, rel=1e-6)
    assert average.tensors["num_batches_tracked"].item() == steps, "counts are the last"


def test_without_decay_nothing_is_kept() -> None:
    average = WeightAverage(a_module(), 0.0)
    average.update()
    assert average.state("ema.") == {}
    average.load({"ema.weight": torch.ones(1)}, "ema.")
    assert average.tensors == {}


def test_one_that_was_kept_goes_on_with_the_same_bits() -> None:
    module = a_module()
    straight, stopped = (WeightAverage(module, 0.7) for _ in range(2))
    for value in (1.0, 3.0, -1.0):
        nn.init.constant_(module.weight, value)
        for own in (straight, stopped):
            own.update()
        kept = stopped.state("ema.g.") | {"adam.g.0": torch.zeros(1)}
        stopped.load(kept, "ema.g.")
    assert all(torch.equal(straight.tensors[name], x) for name, x in stopped.tensors.items())
    assert straight.tensors.keys() == stopped.tensors.keys()
