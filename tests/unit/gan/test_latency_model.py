"""The model of an iteration: figures of the authors' code, and what its faults are worth."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from collafuse_flwr.config.devices import Device, parse_devices
from collafuse_flwr.gan.networks import Cuts, build_architecture
from collafuse_flwr.gan.planning.block_cost import GanCost, measure
from collafuse_flwr.gan.planning.latency_model import LatencyModel, batch_bytes, build_latency_model

SERVER = Device("server", 672e9, 1e9)
MNIST = build_architecture(1, 28, 10)
COST: dict[str, GanCost] = {"paper": measure(MNIST, 64, "paper"), "corrected": measure(MNIST, 64)}


def everywhere(model: LatencyModel, cut: str) -> float:
    """Seconds if all clients cut there."""
    return float(model.seconds(model.extra([Cuts.parse(cut)] * len(model.kinds))))


@pytest.mark.parametrize(
    ("clients", "least", "most"), [(7, 3.5, 194.0), (20, 5.4, 194.3), (80, 14.0, 195.5), (100, 16.9, 196.0)]
)
def test_the_papers_model_has_the_figures_of_its_code(clients: int, least: float, most: float) -> None:
    model = build_latency_model(COST["paper"], parse_devices(("paper7",), clients), SERVER, model="paper")
    assert everywhere(model, "0000") == pytest.approx(least, rel=0.01)
    assert everywhere(model, "1111") == pytest.approx(most, rel=0.001)


def test_the_papers_formula_term_by_term() -> None:
    """Two clients of which one keeps more in each head, written out."""
    fast, slow = Device("fast", 1e11, 1e8), Device("slow", 1e10, 2e8)
    model = build_latency_model(COST["paper"], [fast, slow], SERVER, model="paper")
    g, d = COST["paper"].generator, COST["paper"].discriminator

    def net(b: tuple, passes: int) -> float:  # type: ignore[type-arg]
        f, r = [block.forward for block in b], [block.backward for block in b]
        out, s, link = [block.output for block in b], SERVER.flops, SERVER.link
        arrive = f[1] / s + passes * (f[0] / 1e10 + out[0] / 2e8), passes * ((f[0] + f[1]) / 1e11 + out[1] / 1e8)
        done = [2 * f[3] / s + passes * (out[3] / link + f[4] / rate) for rate in (1e11, 1e10)]
        back = [2 * r[3] / s + passes * (r[4] / rate + out[3] / own) for rate, own in ((1e11, 1e8), (1e10, 2e8))]
        ends = r[3] / s + passes * (out[0] / link + r[0] / 1e10), passes * (out[1] / link + (r[0] + r[1]) / 1e11)
        return float(max(arrive) + max(done) + max(back) + max(ends) + 2 * (f[2] + r[2]) / s)

    seconds = float(model.seconds(model.extra([Cuts.parse("1010"), Cuts()])))
    assert seconds == pytest.approx(net(g, 1) + net(d, 3), rel=1e-12)


def test_the_server_s_link_is_shared_and_messages_take_time() -> None:
    own = Device("own", 1e15, 1e9)
    alone, many = (build_latency_model(COST["corrected"], [own] * n, SERVER) for n in (1, 40))
    infinite = replace(SERVER, flops=1e30)
    transfer = 2 * batch_bytes(COST["corrected"], Cuts()) / 1e9
    for count in (1, 40):
        model = build_latency_model(COST["corrected"], [replace(own, flops=1e30)] * count, infinite)
        assert everywhere(model, "0000") == pytest.approx(count * transfer, rel=1e-9)
    slow = build_latency_model(COST["corrected"], [own] * 40, SERVER, message_latency=0.1)
    assert everywhere(slow, "0000") - everywhere(many, "0000") == pytest.approx(12 * 0.1)
    assert everywhere(many, "0000") > 39 * everywhere(alone, "0000")


def test_the_server_computes_the_discriminator_three_times() -> None:
    instant = Device("instant", 1e30, 1e30)
    model = build_latency_model(COST["corrected"], [instant] * 5, Device("server", 1e9, 1e30))
    g = [block.forward + block.backward for block in COST["corrected"].generator]
    # The third time, of fake images for the generator, goes back to the inputs alone.
    d = [3 * block.forward + 2.5 * block.backward for block in COST["corrected"].discriminator]
    assert everywhere(model, "0000") == pytest.approx(5e-9 * (sum(g[1:4]) + sum(d[1:4])))
    assert everywhere(model, "1111") == pytest.approx(5e-9 * (g[2] + d[2]))
    assert model.server(model.extra([Cuts()])) == pytest.approx(everywhere(model, "0000"))


@pytest.mark.parametrize(
    ("cut", "megabytes"),
    [("0000", 27.46), ("0001", 30.51), ("0010", 22.64), ("0110", 16.22), ("1001", 33.72), ("1111", 22.48)],
)
def test_bytes_of_a_batch(cut: str, megabytes: float) -> None:
    assert batch_bytes(COST["corrected"], Cuts.parse(cut)) / 1e6 == pytest.approx(megabytes, abs=0.005)


def test_memory_counts_weights_four_times_and_two_tapes_of_the_discriminator() -> None:
    model = build_latency_model(COST["corrected"], parse_devices(("1",), 1), SERVER)
    g, d = COST["corrected"].generator, COST["corrected"].discriminator
    expected = sum(4 * block.weights + block.kept for block in (*g[:2], g[4]))
    expected += sum(4 * block.weights + 2 * block.kept for block in (d[0], *d[3:]))
    assert model.memory(model.extra([Cuts.parse("1001")])) == pytest.approx([expected])


def test_passes_are_the_clients_own_time() -> None:
    devices = parse_devices(("paper7",), 7)
    model = build_latency_model(COST["corrected"], devices, Device("server", 1e30, 1e30))
    for cut in ("0000", "0110"):
        alone = [build_latency_model(COST["corrected"], [device], Device("server", 1e30, 1e30)) for device in devices]
        own = model.passes(model.extra([Cuts.parse(cut)] * 7)).sum(0)
        assert own == pytest.approx([everywhere(each, cut) for each in alone])


def test_equal_devices_are_one_kind_only_if_alike() -> None:
    devices = parse_devices(("paper7",), 9)
    alike, apart = (build_latency_model(COST["corrected"], devices, SERVER, alike=alike) for alike in (True, False))
    assert (len(alike.kinds), len(apart.kinds)) == (7, 9)
    for cuts in itertools.islice(itertools.product(("0000", "1010"), repeat=7), 0, 128, 17):
        chosen = [Cuts.parse(cut) for cut in cuts]
        each = [chosen[kind] for kind in alike.kind_of]
        assert np.isclose(alike.seconds(alike.extra(chosen)), apart.seconds(apart.extra(each)))
