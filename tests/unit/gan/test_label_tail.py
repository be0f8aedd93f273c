"""A discriminator that meets labels after the cut: what goes to the server is the same whatever labels images have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import choose_runtime
from collafuse_flwr.gan.label_tail import LabelTail, learning_labels
from collafuse_flwr.gan.networks import Architecture, Cuts, build_architecture
from collafuse_flwr.gan.split_gan.client_half import Batch, ClientHalf
from collafuse_flwr.gan.split_gan.ops import OptimConfig, Tensors, gradient, requires_grad_leaf
from collafuse_flwr.gan.split_gan.server_half import ServerHalf
from collafuse_flwr.gan.split_gan.train_batch import InProcess, train_batch
from collafuse_flwr.privacy.attacks.label_recovery import labels_from_gradients

CLASSES, ROWS = 10, 64
OPTIM = OptimConfig(choose_runtime("cpu", "float32"))


class Overheard(InProcess):
    """A link that keeps what clients send."""

    def __init__(self, halves: Mapping[int, ClientHalf]) -> None:
        super().__init__(halves, {})
        self.sent: list[Tensor] = []

    def call(self, phase: str, payloads: Mapping[int, Tensors]) -> dict[int, Tensors]:
        answers = super().call(phase, payloads)
        self.sent += [x.clone() for own in answers.values() for x in own.values()]
        return answers


def a_batch(step: int, real: str, drawn: bool, tail: bool) -> Batch:
    """Labels of real images are drawn from the stream `real`; all else is of the step."""

    def random_labels(name: str) -> Tensor:
        return torch.randint(0, CLASSES, (8,), generator=named_generator("shown", step, name))

    generator = named_generator("batch", step)
    x = torch.rand((8, 1, 8, 8), generator=generator) * 2 - 1
    z = torch.randn((8, 100), generator=generator)
    fakes = torch.randint(0, CLASSES, (8,), generator=generator)
    labels = torch.randint(0, CLASSES, (8,), generator=named_generator(real, step))
    shown = random_labels if tail else None
    return Batch(x, labels, z, drawn=fakes if drawn else None, shown_labels=shown)


def overheard(architecture: Architecture, real: str, *, drawn: bool, tail: bool) -> list[Tensor]:
    half = ClientHalf(architecture, Cuts(), (0, "client"), OPTIM)
    half.begin_round()
    link, server = Overheard({0: half}), ServerHalf(architecture, {0: Cuts()}, (0, "server"), OPTIM)
    pending: dict[int, Tensors] = {0: {}}
    for step in range(4):
        link.batches = {0: a_batch(step, real, drawn, tail)}
        pending, _ = train_batch(server, link, pending)
    return link.sent


@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize(("tail", "drawn"), [(True, True), (True, False), (False, True), (False, False)])
def test_nothing_that_leaves_in_a_round_depends_on_the_labels_of_real_images(
    tail: bool, drawn: bool, spectral: bool
) -> None:
    architecture = build_architecture(1, 8, CLASSES, width=4, spectral=spectral, tail=tail)
    one, other = (overheard(architecture, real, drawn=drawn, tail=tail) for real in ("some labels", "others"))
    same = all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert same == (tail and drawn)


def trained_tail() -> LabelTail:
    torch.manual_seed(0)
    tail = LabelTail(CLASSES, 32)
    tail.begin_round()
    return tail


def sent(tail: LabelTail, h: Tensor, labels: Tensor) -> Tensor:
    at = requires_grad_leaf(h)
    OPTIM.loss(tail(at, labels), 1.0).backward()
    return gradient(at)


def test_an_unsealed_tail_would_give_away_every_label_and_a_learning_one_gives_away_none() -> None:
    tail, h = trained_tail(), torch.randn((ROWS, 32), generator=named_generator("h"))
    labels = torch.randint(0, CLASSES, (ROWS,), generator=named_generator("labels"))
    shares = []
    for learning in (False, True):
        tail.learning = learning
        candidates = torch.stack([sent(tail, h, torch.full_like(labels, label)) for label in range(CLASSES)])
        recovered = labels_from_gradients(sent(tail, h, labels), candidates, named_generator("any"))
        shares.append((recovered == labels).double().mean().item())
    assert shares[0] == 1
    # Ten labels, 64 rows: four standard deviations from chance.
    assert abs(shares[1] - 1 / CLASSES) < 4 * (0.1 * 0.9 / ROWS) ** 0.5


def test_match_learns_and_any_alone_goes_back() -> None:
    tail, h = trained_tail(), torch.randn((4, 32))
    labels = torch.tensor([0, 1, 1, 2])
    with learning_labels(tail):
        at = requires_grad_leaf(h)
        logits = tail(at, labels)
        logits.sum().backward()
    assert not tail.learning
    torch.testing.assert_close(gradient(at), tail.any.weight.expand(4, -1))
    moved = tail.rows.weight.grad
    assert moved is not None
    assert [bool(row.any()) for row in moved] == [label < 3 for label in range(CLASSES)]
    torch.testing.assert_close(logits[:, :1], tail.any(h))


@torch.no_grad()
def test_the_generator_is_judged_by_the_tail_of_the_rounds_beginning() -> None:
    fresh, h, labels = LabelTail(CLASSES, 32), torch.randn((4, 32)), torch.arange(4)
    assert not fresh(h, labels)[:, 1].any(), "nothing is shown of labels before the first average"
    tail = trained_tail()
    before = tail(h, labels)
    with learning_labels(tail):
        torch.testing.assert_close(tail(h, labels), before)
    tail.rows.weight.mul_(2)
    assert torch.equal(tail(h, labels), before)
    tail.begin_round()
    torch.testing.assert_close(tail(h, labels)[:, 1], 2 * before[:, 1])


def test_labels_of_fake_images_are_those_of_the_batch_unless_drawn() -> None:
    own = a_batch(0, "some labels", drawn=False, tail=False)
    assert torch.equal(own.fake_labels, own.labels)
    drawn = replace(own, drawn=torch.arange(8))
    assert torch.equal(drawn.labels_of("dh_fake"), torch.arange(8))
    assert torch.equal(drawn.labels_of("dh"), torch.arange(8))
    assert torch.equal(drawn.labels_of("dh_real"), own.labels)
    tail = a_batch(0, "some labels", drawn=True, tail=True)
    assert not torch.equal(tail.labels_of("dh_real"), tail.labels)
    assert not torch.equal(tail.labels_of("dh_fake"), tail.labels_of("dh"))
