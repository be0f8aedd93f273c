"""The nets of the split GAN: their published sizes, where they may be cut, and what a cut costs in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.runtime import choose_runtime
from collafuse_flwr.gan.networks import NETS, Cuts, build_architecture
from collafuse_flwr.gan.split_gan.client_half import Batch, ClientHalf
from collafuse_flwr.gan.split_gan.ops import PHASES, OptimConfig, Tensors
from collafuse_flwr.gan.split_gan.precision import QuantizingTransport
from collafuse_flwr.gan.split_gan.server_half import ServerHalf
from collafuse_flwr.gan.split_gan.train_batch import InProcess, train_batch
from collafuse_flwr.gan.upsampling import Upsampling
from collafuse_flwr.wire.codec import count_bytes, encode
from collafuse_flwr.wire.split_gan import SplitRequest

PUBLISHED = build_architecture(channels=1, size=28, num_classes=10)
PRACTICE = OptimConfig(choose_runtime("cpu", "float32"))
DIGITS = st.tuples(*[st.integers(0, 1)] * 4)


@cache
def parameters(net: str, index: int) -> int:
    with torch.device("meta"):
        block = getattr(PUBLISHED, net)[index].build()
    return sum(p.numel() for p in block.parameters())


def kept(text: str) -> int:
    """Parameters of a client with such cuts."""
    cuts = Cuts.parse(text)
    return sum(parameters(net, i) for net in NETS for i in (*cuts.head(net), *cuts.tail(net, 5)))


def test_the_published_nets_have_the_published_sizes() -> None:
    whole = {net: sum(parameters(net, index) for index in range(5)) for net in NETS}
    assert whole == {"generator": 2_221_925, "discriminator": 816_737}
    assert kept("0000") == 1_430_534
    assert kept("1111") == 2_742_982
    assert sum(whole.values()) - kept("0000") == 1_608_128


def test_the_shapes_at_the_cuts_are_the_published_ones() -> None:
    """In MB of 64 images in float32."""
    megabytes = {net: [round(64 * 4 * shape.numel() / 1e6, 3) for shape in PUBLISHED.shapes(net)[:4]] for net in NETS}
    assert megabytes == {"generator": [3.211, 6.423, 6.423, 12.845], "discriminator": [3.211, 1.606, 1.606, 0.590]}
    assert PUBLISHED.shapes("generator")[4] == (1, 28, 28)
    assert PUBLISHED.shapes("discriminator")[4] == (1,)


def at_cut(cuts: Cuts, name: str, channels: int = 1, size: int = 8, width: int = 2) -> int:
    """Values of a row at gh, gt, dh or dt, written out."""
    quarter, half = (size // 4) ** 2, (size // 2) ** 2
    g = [4 * width * quarter, 2 * width * half, 2 * width * half, width * size**2]
    d = [width * half, 2 * width * quarter, 2 * width * quarter, 4 * width * ((size // 4 - 2) // 2 + 1) ** 2]
    return {"gh": g[cuts.g_head], "gt": g[3 - cuts.g_tail], "dh": d[cuts.d_head], "dt": d[3 - cuts.d_tail]}[name]


class Weighed:
    """A link that packs all that crosses as messages do, and counts the bytes of the tensors beyond empty ones."""

    def __init__(self, link: InProcess, dtype: str) -> None:
        self.link, self.dtype, self.down, self.up = link, dtype, 0, 0

    def call(self, phase: str, payloads: Mapping[int, Tensors]) -> dict[int, Tensors]:
        answers = self.link.call(phase, payloads)
        self.down += self._bytes(payloads[0], PHASES[phase][0])
        self.up += self._bytes(answers[0], PHASES[phase][1])
        return answers

    def _bytes(self, tensors: Tensors, names: tuple[str, ...]) -> int:
        assert set(tensors) <= set(names)
        full, empty = (
            count_bytes(encode(SplitRequest(1, 0, "p", "0000", given, {}), self.dtype))
            for given in (tensors, {name: x[:0] for name, x in tensors.items()})
        )
        return full - empty


@settings(max_examples=6)
@given(DIGITS, st.sampled_from([("float32", 4), ("float16", 2), ("bfloat16", 2)]))
def test_a_batch_costs_gh_and_gt_and_three_times_dh_and_dt_each_way(
    digits: tuple[int, int, int, int], dtype: tuple[str, int]
) -> None:
    cuts, rows = Cuts(*digits), 3
    architecture = build_architecture(1, 8, 3, width=2)
    counted = [0, 0]

    def count(client: int, down: int, up: int) -> None:
        counted[0] += down
        counted[1] += up

    batch = Batch(torch.zeros(rows, 1, 8, 8), torch.tensor([0, 1, 2]), torch.zeros(rows, 100))
    halves = {0: ClientHalf(architecture, cuts, ("client",), PRACTICE)}
    weighed = Weighed(InProcess(halves, {0: batch}), dtype[0])
    server = ServerHalf(architecture, {0: cuts}, ("server",), PRACTICE)
    link = QuantizingTransport(weighed, dtype[0], count)
    pending, _ = train_batch(server, link, {0: {}})
    weighed.down = counted[0] = counted[1] = weighed.up = 0
    train_batch(server, link, pending)
    values = at_cut(cuts, "gh") + at_cut(cuts, "gt") + 3 * at_cut(cuts, "dh") + 3 * at_cut(cuts, "dt")
    assert counted == [rows * dtype[1] * values] * 2
    for total in (weighed.down, weighed.up):
        assert abs(total - counted[0]) <= 40, "a digit in the header of an array, at most"


@pytest.mark.parametrize("text", ["", "001", "00100", "001x", "-001", "0.10", " 010", "00²0"])
def test_cuts_are_four_digits(text: str) -> None:
    with pytest.raises(SettingError, match=r"^`split_gan.client_cuts` = .* is not allowed: four digits"):
        Cuts.parse(text)


@given(DIGITS)
def test_cuts_are_written_as_they_are_read(digits: tuple[int, int, int, int]) -> None:
    cuts = Cuts(*digits)
    assert Cuts.parse(str(cuts)) == cuts
    assert (cuts.of("generator"), cuts.of("discriminator")) == (digits[:2], digits[2:])


@pytest.mark.parametrize("text", ["2000", "0200", "0020", "0002"])
def test_the_middle_block_is_the_servers(text: str) -> None:
    with pytest.raises(SettingError, match="at most 1 extra blocks"):
        Cuts.parse(text).check(PUBLISHED)
    deeper = build_architecture(1, 8, 3, width=2, depth=3)
    Cuts.parse(text).check(deeper)


@settings(max_examples=8)
@given(DIGITS)
def test_every_block_is_the_clients_or_the_servers(digits: tuple[int, int, int, int]) -> None:
    cuts, architecture = Cuts(*digits), build_architecture(1, 8, 3, width=2)
    server = ServerHalf(architecture, {0: cuts}, ("server",), PRACTICE)
    for net in NETS:
        parts = (cuts.head(net), server.span(0, net), cuts.tail(net, 5))
        assert [index for part in parts for index in part] == list(range(5))
    half = ClientHalf(architecture, cuts, ("client",), PRACTICE)
    wanted = {name: (value.shape, value.dtype) for name, value in cuts.template(architecture).items()}
    assert {name: (value.shape, value.dtype) for name, value in half.blocks().items()} == wanted


def test_weights_do_not_depend_on_the_cut_nor_on_the_global_random_state() -> None:
    architecture = build_architecture(1, 8, 3, width=2)
    least = ClientHalf(architecture, Cuts(), ("client", 1), PRACTICE).blocks()
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    most = ClientHalf(architecture, Cuts(1, 1, 1, 1), ("client", 1), PRACTICE).blocks()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(most[name], value) for name, value in least.items())
    other = ClientHalf(architecture, Cuts(), ("client", 2), PRACTICE).blocks()
    assert not torch.equal(other["generator.0.linear.weight"], least["generator.0.linear.weight"])


@pytest.mark.parametrize("size", [0, 4, 9, 10, 30])
def test_odd_sizes_are_refused(size: int) -> None:
    with pytest.raises(SettingError) as caught:
        build_architecture(1, size, 3)
    assert str(caught.value) == (
        f"`image_size` = {size} is not allowed: a multiple of 4 pixels from 8 for this strategy"
    )


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (3, 1)])
def test_a_bias_that_is_added_afterwards_is_torch_s_own(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    ours = Upsampling(6, 4, kernel, stride, 1).double()
    theirs = nn.ConvTranspose2d(6, 4, kernel, stride, 1).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 6, 5, 5, dtype=torch.float64, requires_grad=True)
    results = [layer(x) for layer in (ours, theirs)]
    towards = torch.randn_like(results[0])
    gradients = [
        torch.autograd.grad(result, [x, *layer.parameters()], towards)
        for result, layer in zip(results, (ours, theirs), strict=True)
    ]
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(gradients[0], gradients[1])
