"""The split GAN's batch: in pieces, by recomputation and undivided, with the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import choose_runtime
from collafuse_flwr.gan.networks import Architecture, Cuts, build_architecture
from collafuse_flwr.gan.split_gan.augmentation import augment
from collafuse_flwr.gan.split_gan.client_half import Batch, ClientHalf, ForwardCache
from collafuse_flwr.gan.split_gan.ops import PHASES, OptimConfig, Tensors, adam_state, load_adam_state
from collafuse_flwr.gan.split_gan.precision import QuantizingTransport, quantize_roundtrip
from collafuse_flwr.gan.split_gan.server_half import ServerHalf
from collafuse_flwr.gan.split_gan.train_batch import InProcess, train_batch
from simulations.bench.reference_gan import ReferenceGan

CUTS = {0: Cuts.parse("0000"), 1: Cuts.parse("0010"), 2: Cuts.parse("1110"), 3: Cuts.parse("1111")}
PRACTICE = OptimConfig(choose_runtime("cpu", "float32"))
#: Hinges and an average of weights, for nets with spectral norms and labels in the tail.
STEADY = replace(PRACTICE, loss_kind="hinge", ema=0.9)
ROWS = 6


@pytest.fixture(scope="module")
def architecture() -> Architecture:
    return build_architecture(channels=1, size=12, num_classes=3, width=4)


@pytest.fixture(scope="module")
def steady() -> Architecture:
    return build_architecture(channels=1, size=12, num_classes=3, width=4, spectral=True, tail=True)


def federation(
    architecture: Architecture,
    cuts: Mapping[int, Cuts] = CUTS,
    factored: bool = False,
    optim: OptimConfig = PRACTICE,
) -> tuple[ServerHalf, dict[int, ClientHalf]]:
    halves = {c: ClientHalf(architecture, own, (0, "client", c), optim, factored) for c, own in cuts.items()}
    return ServerHalf(architecture, cuts, (0, "server"), optim), halves


def batch(client: int, step: int, kind: str = "none") -> Batch:
    """A batch; where images are augmented, fake images have labels of their own, and the head is given others."""
    generator = named_generator("batch", client, step)
    own = Batch(
        torch.rand((ROWS, 1, 12, 12), generator=generator) * 2 - 1,
        torch.randint(0, 3, (ROWS,), generator=generator),
        torch.randn((ROWS, 100), generator=generator),
    )
    if kind == "none":
        return own

    def augmented(name: str, x: Tensor) -> Tensor:
        return augment(x, kind, named_generator("augmentation", client, step, name))

    def random_labels(name: str) -> Tensor:
        return torch.randint(0, 3, (ROWS,), generator=named_generator("shown", client, step, name))

    drawn = torch.randint(0, 3, (ROWS,), generator=generator)
    return replace(own, drawn=drawn, augment=augmented, shown_labels=random_labels)


def weights(server: ServerHalf, halves: Mapping[int, ClientHalf]) -> dict[str, Tensor]:
    """Everything that training moves, running statistics included."""
    client_weights = {f"{c}.{name}": value for c, half in halves.items() for name, value in half.state().items()}
    return client_weights | {
        f"{net}.{name}": value for net, blocks in server.nets.items() for name, value in blocks.state_dict().items()
    }


def train(server: ServerHalf, link: InProcess, steps: int, kind: str = "none") -> None:
    pending: dict[int, Tensors] = {client: {} for client in link.halves}
    for step in range(steps):
        link.batches = {client: batch(client, step, kind) for client in link.halves}
        pending, _ = train_batch(server, link, pending)
    for client, payload in pending.items():
        link.halves[client].close(payload["grad_gh"])


class Forgetful(InProcess):
    """A link whose clients are other objects in every phase, which know the state on disk, the batch and gt alone."""

    def __init__(
        self, architecture: Architecture, halves: Mapping[int, ClientHalf], optim: OptimConfig = PRACTICE
    ) -> None:
        super().__init__(dict(halves), {})
        self.architecture, self.optim = architecture, optim

    def call(self, phase: str, payloads: Mapping[int, Tensors]) -> dict[int, Tensors]:
        for client in payloads:
            old, fresh = self.halves[client], ClientHalf(self.architecture, CUTS[client], ("other",), self.optim)
            # As on disk, where values lie in another order than channels last.
            plain = torch.contiguous_format
            fresh.load({name: value.clone(memory_format=plain) for name, value in old.state().items()})
            fresh.tape = ForwardCache(old.tape.batch, None if old.tape.gt is None else old.tape.gt.detach().clone())
            self.halves = {**self.halves, client: fresh}
        return super().call(phase, payloads)


class Deserting(InProcess):
    """A link on which client 1 stops answering at a phase."""

    phase = "latent"

    def call(self, phase: str, payloads: Mapping[int, Tensors]) -> dict[int, Tensors]:
        stays = {
            c: p for c, p in payloads.items() if c != 1 or list(PHASES).index(phase) < list(PHASES).index(self.phase)
        }
        return super().call(phase, stays)


@pytest.mark.parametrize(("size", "channels", "depth"), [(12, 1, 1), (8, 3, 2)])
def test_split_training_gives_the_bits_of_one_undivided_graph(size: int, channels: int, depth: int) -> None:
    architecture = build_architecture(channels, size, num_classes=3, width=4, depth=depth)

    def draw(client: int, step: int) -> Batch:
        own = batch(client, step)
        return Batch(own.x[:, :, :size, :size].expand(-1, channels, -1, -1), own.labels, own.z)

    split, plain = federation(architecture), federation(architecture)
    link, reference = InProcess(split[1], {}), ReferenceGan(*plain)
    pending: dict[int, Tensors] = {client: {} for client in CUTS}
    for step in range(3):
        batches = {client: draw(client, step) for client in CUTS}
        link.batches = batches
        pending, _ = train_batch(split[0], link, pending)
        reference.train_batch(batches)
    for client, payload in pending.items():
        split[1][client].close(payload["grad_gh"])
    before = weights(*federation(architecture))
    expected = weights(*plain)
    for name, value in weights(*split).items():
        assert torch.equal(value, expected[name]), name
    assert not all(torch.equal(value, expected[name]) for name, value in before.items())


def test_every_option_gives_the_bits_of_one_undivided_graph(steady: Architecture) -> None:
    split, plain = (federation(steady, optim=STEADY) for _ in range(2))
    link, reference, kind = InProcess(split[1], {}), ReferenceGan(*plain), "color+translation+cutout"
    for _, halves in (split, plain):
        for half in halves.values():
            half.begin_round()
    train(split[0], link, 3, kind)
    for step in range(3):
        reference.train_batch({client: batch(client, step, kind) for client in CUTS})
    expected, before = weights(*plain), weights(*federation(steady, optim=STEADY))
    split_weights = {name: value for name, value in weights(*split).items() if ".ema." not in name}
    for name, value in split_weights.items():
        assert torch.equal(value, expected[name]), name
    moved = {name for name, value in before.items() if not torch.equal(value, expected[name])}
    # Label tails are shown to the generator as they were when the round began; hinges of small logits cancel there.
    assert not {name for name in before if ".begun_" not in name and not name.endswith("any.bias")} - moved


@pytest.mark.parametrize("options", [False, True])
def test_a_client_that_forgets_everything_but_its_disk_gives_the_same_bits(
    architecture: Architecture, steady: Architecture, options: bool
) -> None:
    nets, optim = (steady, STEADY) if options else (architecture, PRACTICE)
    remembers, forgets = (federation(nets, optim=optim) for _ in range(2))
    kind = "color+translation+cutout" if options else "none"
    train(remembers[0], InProcess(remembers[1], {}), 2, kind)
    link = Forgetful(nets, forgets[1], optim)
    train(forgets[0], link, 2, kind)
    expected = weights(*remembers)
    assert any(".ema." in name for name in expected) == options
    for name, value in weights(forgets[0], link.halves).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("phase", list(PHASES))
def test_a_client_that_deserts_costs_its_rows_alone(architecture: Architecture, phase: str) -> None:
    server, halves = federation(architecture)
    link = Deserting(halves, {client: batch(client, 0) for client in CUTS})
    link.phase = phase
    pending, features = train_batch(server, link, {client: {} for client in CUTS})
    assert set(pending) == {0, 2, 3}
    assert {0, 2, 3} <= set(features)
    for value in weights(server, halves).values():
        assert value.isfinite().all()
    link.batches = {client: batch(client, 1) for client in pending}
    again, _ = train_batch(server, link, pending)
    assert set(again) == set(pending)


def test_nobody_answering_leaves_the_server_as_it_was(architecture: Architecture) -> None:
    server, halves = federation(architecture)
    before = {name: value.clone() for name, value in weights(server, halves).items()}
    assert train_batch(server, InProcess(halves, {}), {}) == ({}, {})
    after = weights(server, halves)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_rows_do_not_depend_on_the_order_in_which_clients_are_named(architecture: Architecture) -> None:
    one, other = federation(architecture), federation(architecture, dict(reversed(CUTS.items())))
    for server, halves in (one, other):
        link = InProcess(halves, {client: batch(client, 0) for client in halves})
        train_batch(server, link, {client: {} for client in halves})
    expected = weights(*one)
    for name, value in weights(*other).items():
        assert torch.equal(value, expected[name]), name


def test_features_are_those_of_the_discriminators_middle_block_for_real_images(architecture: Architecture) -> None:
    server, halves = federation(architecture, {0: CUTS[0]})
    own = batch(0, 0)
    with torch.no_grad():
        middle = halves[0].parts["d_head"](own.x, own.labels)
        for index in (1, 2):
            middle = server.nets["discriminator"][index](middle)
    fresh = federation(architecture, {0: CUTS[0]})
    _, features = train_batch(fresh[0], InProcess(fresh[1], {0: own}), {0: {}})
    assert torch.equal(features[0], middle)


class Sent:
    """Counts bytes up."""

    total = 0

    def __call__(self, client: int, down: int, up: int) -> None:
        self.total += up


@pytest.mark.parametrize("spectral", [False, True])
def test_factors_of_gradients_give_the_same_training_with_fewer_numbers(spectral: bool) -> None:
    architecture = build_architecture(channels=1, size=12, num_classes=3, width=4, spectral=spectral)
    whole, factors = federation(architecture), federation(architecture, factored=True)
    numbers = []
    for server, halves in (whole, factors):
        sent = Sent()
        link = QuantizingTransport(InProcess(halves, {c: batch(c, 0) for c in CUTS}), "float32", sent)
        pending, _ = train_batch(server, link, {client: {} for client in CUTS})
        numbers.append((sent.total, pending))
    assert numbers[1][0] < 0.8 * numbers[0][0]
    for client in CUTS:
        assert torch.allclose(numbers[0][1][client]["grad_gh"], numbers[1][1][client]["grad_gh"], rtol=1e-4, atol=1e-9)
    # Biases before a normalisation have no gradient but rounding errors, which Adam makes whole steps of.
    for name, value in weights(*whole).items():
        if not name.endswith("bias"):
            assert (value - weights(*factors)[name]).abs().float().mean() < 1e-4, name


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 2e-3), ("bfloat16", 2e-2)])
def test_what_travels_in_sixteen_bits_keeps_its_relative_size(dtype: str, error: float) -> None:
    for scale in (1e-12, 1.0, 1e12):
        x = torch.randn((50,), generator=named_generator("x")) * scale
        arrived = quantize_roundtrip(x, dtype)
        assert (arrived - x).abs().max() <= error * x.abs().max()
        assert (arrived == x).all() == (dtype == "float32")
    assert torch.equal(quantize_roundtrip(torch.zeros(3), dtype), torch.zeros(3))


def test_moments_come_back_to_their_weights_however_these_lie_in_memory() -> None:
    """A fused step on moments in another order than the weights' would train each weight by another's past."""
    weights = [torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last) for _ in range(2)]
    weights[1].load_state_dict(weights[0].state_dict())
    optimisers = [PRACTICE.optimiser(own) for own in weights]
    for number in range(3):
        x = torch.randn((2, 3, 5, 5), generator=named_generator("x", number))
        for own, optimiser in zip(weights, optimisers, strict=True):
            own(x).square().sum().backward()
            optimiser.step()
            optimiser.zero_grad()
        kept = {name: value.contiguous() for name, value in adam_state(optimisers[1], "").items()}
        load_adam_state(optimisers[1], kept, "")
    assert torch.equal(weights[0].weight, weights[1].weight)
