"""Stacked training against training one by one: weights, moments, averages and losses within float32's rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import choose_runtime
from collafuse_flwr.data.images import ImageSource
from collafuse_flwr.diffusion.loss import Objective
from collafuse_flwr.diffusion.schedule import cosine
from collafuse_flwr.diffusion.stacked import TRAINER, TrainJob, train_all, train_stacked
from collafuse_flwr.diffusion.train import TimestepRange, TrainResult, TrainState
from collafuse_flwr.diffusion.unet import ImageShape, as_denoise, build_network

#: Adam makes a step of about its rate along gradients that are nothing but rounding.
TOLERANCE: dict[str, Any] = {"atol": 2e-4, "rtol": 1e-3}
BFLOAT16 = choose_runtime("cpu", "bfloat16")
CLASSES = ImageShape(channels=1, size=8, num_classes=10)
Make = Callable[[int], nn.Module]


def unet(shape: ImageShape = CLASSES, *, model: str = "nano") -> Make:
    return lambda number: build_network(model, shape, 0, f"client {number}")


def jobs(
    make: Make | None = None, num_steps: Sequence[int] = (4, 4, 4), labels: str = "classes", **more: Any
) -> list[TrainJob]:
    """Jobs of clients with different images, cuts and rates."""
    make = make or unet()
    return [_job(make(number), number, steps, labels, dict(more)) for number, steps in enumerate(num_steps)]


def _job(network: nn.Module, number: int, num_steps: int, labels: str, more: dict[str, Any]) -> TrainJob:
    draws, count = named_generator("images", number), 10 + 3 * number
    x = torch.randn(count, 1, 8, 8, generator=draws).clamp(-1, 1)
    conditions = {
        "classes": torch.randint(0, 9, (count,), generator=draws),
        "attributes": torch.randint(0, 2, (count, 3), generator=draws),
        "none": None,
    }
    state = TrainState(network, 0.9)
    mu = more.pop("mu", 0.0)
    settings: dict[str, Any] = {
        "schedule": cosine(20),
        "objective": Objective(),
        "steps_range": TimestepRange(6 + 4 * number),
        "batch_size": 4,
        "learning_rate": lambda fraction: 1e-3 * (number + 1) * (1 - fraction),
    }
    return TrainJob(
        state,
        as_denoise(network, choose_runtime("cpu")),
        ImageSource(x, conditions[labels]),
        num_steps=num_steps,
        generator=named_generator("client", number),
        penalty=state.proximal(mu) if mu else None,
        **settings | more,
    )


def assert_close(stacked: Sequence[TrainJob], single: Sequence[TrainJob]) -> None:
    for one, other in zip(stacked, single, strict=True):
        own, expected = one.state.state_dict(), other.state.state_dict()
        assert own.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(own[name], value, **TOLERANCE)
        assert torch.equal(one.generator.get_state(), other.generator.get_state())
        assert not any(p.grad is not None for p in one.state.parameters)


def assert_same_results(stacked: Sequence[TrainResult], single: Sequence[TrainResult]) -> None:
    for one, other in zip(stacked, single, strict=True):
        assert (one.steps, one.images) == (other.steps, other.images)
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


CASES: dict[str, dict[str, Any]] = {
    "equal steps": {},
    "some are done earlier": {"num_steps": (2, 5, 1, 3)},
    "mirrored, labels dropped": {
        "make": unet(ImageShape(1, 8, 10, null=True)),
        "flip": True,
        "label_dropout": 0.4,
    },
    "attributes": {
        "make": unet(ImageShape(1, 8, 0, 4, null=True)),
        "labels": "attributes",
        "label_dropout": 0.4,
    },
    "no labels": {"make": unet(ImageShape(1, 8, 0)), "labels": "none"},
    "attention": {"make": unet(ImageShape(1, 8, 10), model="paper"), "num_steps": (2, 2)},
    "a penalty": {"mu": 10.0, "num_steps": (4, 2, 4)},
    "bounded losses": {"max_loss": 0.5},
    "epsilon, min-SNR": {"objective": Objective("epsilon", "min_snr")},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_stack_is_trained_as_its_networks_are_one_by_one(case: dict[str, Any]) -> None:
    stacked, single = jobs(**case), jobs(**case)
    for _ in range(2):
        # The second time from moments and averages, with another learning rate in the warm-up.
        assert len({job.stack_key() for job in stacked}) == 1
        assert_same_results(train_stacked(stacked), [job.run() for job in single])
        assert_close(stacked, single)


def test_networks_that_have_trained_before_and_new_ones_are_one_stack() -> None:
    stacked, single = jobs(), jobs()
    for job in (stacked[1], single[1]):
        job.run()
    train_stacked(stacked)
    for job in single:
        job.run()
    assert_close(stacked, single)
    assert [job.state.steps for job in stacked] == [4, 8, 4]


def test_states_share_no_memory_after_it() -> None:
    stacked = jobs(mu=1.0)
    train_stacked(stacked)
    tensors = [value for job in stacked for value in job.state.state_dict().values() if value.numel() > 1]
    held = [value.untyped_storage() for value in tensors]
    assert len({own.data_ptr() for own in held}) == len(held)
    assert all(own.nbytes() == value.nbytes for own, value in zip(held, tensors, strict=True))


def test_what_differs_is_stacked_apart() -> None:
    kinds = [
        jobs(),
        jobs(unet(model="tiny")),
        jobs(unet(ImageShape(1, 8, 12))),
        jobs(lambda number: _with_groups(4)),
        jobs(batch_size=2),
        jobs(schedule=cosine(30)),
        jobs(objective=Objective("epsilon")),
        jobs(unet(ImageShape(1, 8, 0)), labels="none"),
    ]
    keys = [{job.stack_key() for job in kind} for kind in kinds]
    assert len(set().union(*keys)) == len(kinds)
    assert None not in set().union(*keys)


def _with_groups(groups: int) -> nn.Module:
    """The weights are of the same shapes."""
    network = unet()(0)
    for part in network.modules():
        if isinstance(part, nn.GroupNorm):
            part.num_groups = groups
    return network


class Own(nn.Module):
    """A network of somebody's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        output: Tensor = self.layer(x)
        return output


def _batch_norm() -> nn.Module:
    network = unet()(0)
    network.conv_norm_out = nn.BatchNorm2d(16)
    return network


def _frozen() -> nn.Module:
    network = unet()(0)
    network.conv_in.requires_grad_(False)
    return network


def _shared() -> nn.Module:
    network = unet()(0)
    resnets: Any = network.mid_block.resnets  # type: ignore[union-attr]
    resnets[1].conv1.weight = resnets[0].conv1.weight
    return network


def _scaled() -> nn.Module:
    network = unet()(0)
    network.register_parameter("scale", nn.Parameter(torch.ones(())))
    return network


def _dropout() -> nn.Module:
    network = unet()(0)
    for part in network.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.5
    return network


@pytest.mark.parametrize("make", [Own, _batch_norm, _frozen, _shared, _scaled, _dropout])
def test_a_network_that_cannot_be_stacked_is_trained_by_itself(make: Callable[[], nn.Module]) -> None:
    stacked, single = (jobs(lambda number: make(), (2, 2)) for _ in range(2))
    assert [job.stack_key() for job in stacked] == [None, None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        results = train_all(stacked)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert results == [job.run() for job in single]
    assert_bits(stacked, single)


def test_jobs_without_a_step_are_left_as_they_are() -> None:
    results = train_all(jobs(num_steps=(0, 2, 2)))
    assert [own.steps for own in results if isinstance(own, TrainResult)] == [0, 2, 2]


@dataclass(frozen=True)
class Broken(ImageSource):
    """A source that fails after some batches."""

    good: int
    row_counts: list[int] = field(default_factory=list)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        self.row_counts.append(len(rows))
        if len(self.row_counts) > self.good:
            raise OSError("damaged")
        return super().batch(rows)


@pytest.mark.parametrize("good", [0, 3])
def test_an_error_of_one_leaves_the_others_their_result(good: int) -> None:
    stacked, single = jobs(mu=1.0), jobs(mu=1.0)
    source = stacked[1].source
    assert isinstance(source, ImageSource)
    stacked[1] = replace(stacked[1], source=Broken(source.images, source.labels, good))
    first, second, third = train_all(stacked)
    assert isinstance(second, OSError)
    assert isinstance(first, TrainResult)
    assert isinstance(third, TrainResult)
    assert_same_results([first, third], [single[number].run() for number in (0, 2)])
    assert_close(stacked[::2], single[::2])


def test_arithmetic_of_bfloat16_is_that_of_a_single_network() -> None:
    outputs = []
    for train in (train_all, lambda these: [job.run() for job in these]):
        halves = [replace(job, denoise=as_denoise(job.state.network, BFLOAT16)) for job in jobs(num_steps=(1, 1))]
        results: Any = train(halves)
        outputs.append([own.loss for own in results])
    assert outputs[0] == pytest.approx(outputs[1], rel=1e-3)


def test_by_default_a_job_is_done_at_once_as_ever() -> None:
    one, other = jobs()[0], jobs()[0]
    assert TRAINER.get()(one) == other.run()
    assert_bits([one], [other])


def assert_bits(some: Sequence[TrainJob], others: Sequence[TrainJob]) -> None:
    for one, other in zip(some, others, strict=True):
        expected = other.state.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in one.state.state_dict().items())
