"""What goes with a block to another half: nothing of its past is lost, and no moments are believed that cannot be."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.core.runtime import choose_runtime
from collafuse_flwr.gan.networks import Cuts, build_architecture
from collafuse_flwr.gan.split_gan.block_moments import (
    block_moments,
    check_moments,
    cuts_of,
    every_moment,
    leaving,
    load_block_moments,
    moments_template,
)
from collafuse_flwr.gan.split_gan.client_half import ClientHalf
from collafuse_flwr.gan.split_gan.ops import OptimConfig, adam_state
from collafuse_flwr.gan.split_gan.server_half import ServerHalf
from collafuse_flwr.gan.split_gan.train_batch import InProcess, train_batch
from simulations.bench.reference_gan import ReferenceGan
from tests.unit.gan.test_train_batch import batch

CONFIG = OptimConfig(choose_runtime("cpu", "float32"), ema=0.9)
BETAS = CONFIG.betas
NETS = build_architecture(1, 12, 3, width=4)
LEAST, MOST = Cuts(), Cuts.parse("1111")


def halves(cuts: Cuts, spare: Cuts | None = LEAST) -> tuple[ServerHalf, ClientHalf]:
    """Both halves of the same networks, wherever they are cut."""
    server = ServerHalf(NETS, {0: cuts}, ("whole",), CONFIG, spare)
    return server, ClientHalf(NETS, cuts, ("whole",), CONFIG)


def train(server: ServerHalf, half: ClientHalf, steps: range) -> None:
    pending: dict[int, dict[str, Tensor]] = {0: {}}
    for step in steps:
        pending, _ = train_batch(server, InProcess({0: half}, {0: batch(0, step)}), pending)
    half.close(pending[0]["grad_gh"])


def recut(server: ServerHalf, half: ClientHalf, before: Cuts, after: Cuts) -> tuple[ServerHalf, ClientHalf]:
    """Halves at other cuts, to which blocks have moved with their past."""
    there, here = halves(after)
    weights, moments = (
        (server.blocks(), half.blocks()),
        (every_moment(server), every_moment(half)),
    )
    there.load_blocks(weights[0])
    load_block_moments(there, moments[0])
    kept = here.blocks().keys()
    here.load_blocks({name: value for own in weights for name, value in own.items() if name in kept})
    for own in moments:
        load_block_moments(here, own)
    up = moments_template(NETS, leaving(before, after, NETS), averaged=True)
    moved = {f"{net}.{index}." for net, index in leaving(before, after, NETS)}
    there.load_blocks({name: value for name, value in weights[1].items() if name.startswith(tuple(moved))})
    load_block_moments(there, block_moments(half, up))
    return there, here


def state(server: ServerHalf, half: ClientHalf) -> Mapping[str, Tensor]:
    return server.blocks() | every_moment(server) | half.blocks() | every_moment(half)


@pytest.mark.parametrize(("before", "after"), [(LEAST, MOST), (MOST, LEAST), ("1001", "0110")])
def test_blocks_that_move_train_on_as_in_one_undivided_graph(before: Cuts | str, after: Cuts | str) -> None:
    first, second = (Cuts.parse(str(own)) for own in (before, after))
    split, whole = halves(first), halves(first, spare=None)
    train(*split, range(2))
    split = recut(*split, first, second)
    train(*split, range(2, 5))
    reference = ReferenceGan(whole[0], {0: whole[1]})
    for step in range(5):
        reference.train_batch({0: batch(0, step)})
    ours, theirs = state(*split), state(*whole)
    # Only what trains in phases keeps averages.
    compared = [name for name in theirs if not name.startswith("ema:")]
    assert any(name.startswith("exp_avg_sq:") for name in compared)
    assert [name for name in compared if not torch.equal(ours[name], theirs[name])] == []


def test_without_its_moments_a_block_would_train_otherwise() -> None:
    """The test above sees it."""
    kept, lost = halves(LEAST), halves(LEAST)
    for pair in (kept, lost):
        train(*pair, range(2))
    kept = recut(*kept, LEAST, MOST)
    lost = recut(*lost, LEAST, MOST)
    for optimiser in lost[1].optimisers.values():
        optimiser.state.clear()
    for pair in (kept, lost):
        train(*pair, range(2, 3))
    assert not torch.equal(kept[1].blocks()["generator.1.0.weight"], lost[1].blocks()["generator.1.0.weight"])


@pytest.mark.parametrize("cuts", ["0000", "1111", "0110"])
def test_a_state_says_its_cuts_and_a_template_what_moments_there_are(cuts: str) -> None:
    own = Cuts.parse(cuts)
    server, half = halves(own)
    assert every_moment(half) == {}
    assert cuts_of(half.state()) == own
    train(server, half, range(1))
    assert cuts_of(half.state()) == own
    blocks = [("generator", 0), ("discriminator", 0)]
    for averaged in (True, False):
        template = moments_template(NETS, blocks, averaged=averaged)
        moments = block_moments(half, template)
        assert moments.keys() == template.keys()
        assert all((x.shape, x.dtype) == (template[n].shape, template[n].dtype) for n, x in moments.items())
        assert any(name.startswith("ema:generator.0.") for name in template) == averaged
        assert not any(name.startswith("ema:discriminator") for name in template)


def test_moments_are_those_that_adam_keeps() -> None:
    server, half = halves(MOST)
    train(server, half, range(2))
    theirs = adam_state(half.optimisers["g_head"], "")
    names = [name for name, _ in half.parts["g_head"].named_parameters()]
    ours = every_moment(half)
    for number, name in enumerate(names):
        own = name.removeprefix("blocks.")
        assert torch.equal(ours[f"exp_avg:generator.{own}"], theirs[f"{number}.exp_avg"])
        assert int(ours[f"step:generator.{own}"]) == 2


def test_leaving_is_what_one_cut_keeps_and_the_other_does_not() -> None:
    assert leaving(MOST, LEAST, NETS) == [
        ("generator", 1),
        ("generator", 3),
        ("discriminator", 1),
        ("discriminator", 3),
    ]
    assert leaving(LEAST, MOST, NETS) == []
    assert leaving(Cuts.parse("1001"), Cuts.parse("0110"), NETS) == [("generator", 1), ("discriminator", 3)]


def adams(gradients: Tensor) -> dict[str, Tensor]:
    """Adam's moments after gradients, (steps, values)."""
    mean = square = torch.zeros(gradients.shape[1])
    for own in gradients:
        mean, square = BETAS[0] * mean + (1 - BETAS[0]) * own, BETAS[1] * square + (1 - BETAS[1]) * own**2
    return {"exp_avg:g.1.w": mean, "exp_avg_sq:g.1.w": square, "step:g.1.w": torch.tensor(len(gradients))}


def test_moments_of_any_gradients_are_believed() -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-9, 1.0, 1e3):
        check_moments(adams(scale * torch.randn((20, 50), generator=generator)), BETAS)
    # The gradients that come nearest to the bound: those before count for less, as the mean forgets them sooner.
    growing = (BETAS[0] / BETAS[1]) ** torch.arange(60.0).flip(0)
    check_moments(adams(growing[:, None]), BETAS)
    check_moments(adams(torch.zeros((3, 5))), BETAS)


def test_the_bound_is_reached() -> None:
    growing = (BETAS[0] / BETAS[1]) ** torch.arange(60.0, dtype=torch.float64).flip(0)
    reached = adams(growing[:, None])
    most = (1 - BETAS[0]) / math.sqrt((1 - BETAS[1]) * (1 - BETAS[0] ** 2 / BETAS[1]))
    ratio = reached["exp_avg:g.1.w"] / reached["exp_avg_sq:g.1.w"].sqrt()
    assert ratio.item() == pytest.approx(most, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exp_avg_sq:g.1.w": torch.zeros(50)}, "larger than any gradients"),
        ({"exp_avg:g.1.w": torch.full((50,), 1e4)}, "larger than any gradients"),
        ({"exp_avg_sq:g.1.w": torch.full((50,), -1.0)}, "larger than any gradients"),
        ({"step:g.1.w": torch.tensor(-1)}, "must not be negative"),
    ],
)
def test_moments_that_would_blow_a_block_up_are_refused(change: dict[str, Tensor], message: str) -> None:
    own = adams(torch.randn((20, 50), generator=torch.Generator().manual_seed(0)))
    with pytest.raises(UploadError, match=message):
        check_moments(own | change, BETAS)
