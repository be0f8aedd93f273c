"""The split GAN's rivals beside FedGAN and MD-GAN, which they are where they have one client or one edge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from collafuse_flwr.client.pfl_gan import PflGanClient
from collafuse_flwr.gan.mdgan import Generator
from collafuse_flwr.gan.networks import only
from collafuse_flwr.runs.run_layout import RunLayout
from strategies.fsl_gan import FslGan
from strategies.hfl_gan import HflGan
from strategies.mdgan import MdGan
from strategies.pfl_gan import PflGan
from tests.gan_runs import same, settings, state, straight_runs
from tests.small_runs import bytes_of, here_is, metrics, run_strategy


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return straight_runs(tmp_path_factory, "fedgan", "fsl_gan", "pfl_gan")


def test_fsl_gan_alone_is_mdgan_bit_for_bit(tmp_path: Path) -> None:
    """The mean of one discriminator is itself, and nobody is there to swap with."""
    made = {name: run_strategy(settings(tmp_path / name, name, num_supernodes=1)) for name in ("fsl_gan", "mdgan")}
    ours, theirs = made["fsl_gan"], made["mdgan"]
    assert isinstance(ours, FslGan)
    assert isinstance(theirs, MdGan)
    same(ours.generator.state(), theirs.generator.state())
    same(state(tmp_path / "fsl_gan", 0), state(tmp_path / "mdgan", 0))


@pytest.mark.parametrize("init", ["independent", "common"])
def test_clients_of_fsl_gan_begin_with_the_mean_weighted_by_images(tmp_path: Path, init: str) -> None:
    strategy = run_strategy(settings(tmp_path, "fsl_gan", num_rounds=1, split_gan__init=init))
    assert isinstance(strategy, FslGan)
    counts = {int(client): count for client, count in metrics(tmp_path)[0]["images"].items()}
    assert len(set(counts.values())) > 1
    own = {client: state(tmp_path, client) for client in counts}
    for name, value in strategy._fresh_weights(1).items():
        expected = sum((count * own[c][name].double() for c, count in counts.items()), torch.zeros(()))
        torch.testing.assert_close(value.double(), expected / sum(counts.values()), rtol=1e-5, atol=1e-7)
    begun: Any = here_is(strategy.config, tmp_path, 2)
    same(begun.open_round(2, strategy._fresh_weights(2)).judge.weights(), strategy._fresh_weights(0))


def test_fsl_gan_in_one_process_is_fsl_gan_by_messages(tmp_path: Path, straight: dict[str, Path]) -> None:
    run_strategy(settings(tmp_path, "fsl_gan", gan__transport="in_process"))
    assert metrics(tmp_path) == metrics(straight["fsl_gan"])
    assert bytes_of(tmp_path) == bytes_of(straight["fsl_gan"])


def test_pfl_gan_alone_is_fedgan_alone_bit_for_bit(tmp_path: Path) -> None:
    for name in ("pfl_gan", "fedgan"):
        run_strategy(settings(tmp_path / name, name, num_supernodes=1))
    same(state(tmp_path / "pfl_gan", 0), state(tmp_path / "fedgan", 0))
    own, theirs = (RunLayout(tmp_path / name).client(0).samples for name in ("pfl_gan", "fedgan"))
    assert own.read_bytes() == theirs.read_bytes()


def test_clients_of_pfl_gan_learn_from_each_other_after_the_first_rounds_and_then_send_nothing(
    tmp_path: Path, straight: dict[str, Path]
) -> None:
    """Of two rounds the first is alone; what came then is what is mixed, and nothing comes later."""
    alone = run_strategy(settings(tmp_path, "pfl_gan", pfl_gan__warmup_rounds=2))
    first, second = metrics(straight["pfl_gan"])
    assert first["server"]["synthetic"] == {}
    others = {str(c): sum(first["images"].values()) - count for c, count in ((c, first["images"][c]) for c in "012")}
    assert all(0 < count <= others[client] for client, count in second["server"]["synthetic"].items())
    assert sorted(second["server"]["synthetic"]) == ["0", "1", "2"]
    assert all(second["bytes_up"][client] < first["bytes_up"][client] / 10 for client in "012")
    assert metrics(tmp_path)[0]["clients"] == first["clients"]
    assert metrics(tmp_path)[1]["server"]["synthetic"] == {}
    assert isinstance(alone, PflGan)
    learnt = state(straight["pfl_gan"], 1)
    changed = [name for name, value in state(tmp_path, 1).items() if not torch.equal(value, learnt[name])]
    assert changed, "the mixture changes what is learnt"


def test_samples_of_pfl_gan_are_of_the_clients_own_generator(straight: dict[str, Path]) -> None:
    config, folder = settings(straight["pfl_gan"], "pfl_gan"), straight["pfl_gan"]
    client = here_is(config, folder, 2)
    assert isinstance(client, PflGanClient)
    generator = Generator(client._architecture(), ("own",), client._optim_config())
    generator.load_weights(client._gan(3).blocks())
    kept = load_file(RunLayout(folder).client(2).samples)
    assert torch.equal(kept["images"], generator.sample(client._codes(len(kept["labels"]), 2), kept["labels"]))


def test_hfl_gan_with_one_edge_is_fedgan_bit_for_bit(tmp_path: Path, straight: dict[str, Path]) -> None:
    run_strategy(settings(tmp_path, "hfl_gan", hfl_gan__num_edges=1))
    for client in range(3):
        same(state(tmp_path, client), state(straight["fedgan"], client))
        own, theirs = (RunLayout(folder).client(client).samples for folder in (tmp_path, straight["fedgan"]))
        assert own.read_bytes() == theirs.read_bytes()


def test_edges_of_hfl_gan_have_a_generator_each_and_share_the_discriminator_when_the_cloud_averages(
    tmp_path: Path,
) -> None:
    strategy = run_strategy(settings(tmp_path, "hfl_gan", hfl_gan__cloud_every=2))
    assert isinstance(strategy, HflGan)
    first, second = metrics(tmp_path)
    assert [row["server"]["in_cloud"] for row in (first, second)] == [False, True]
    assert {*first["server"]["clusters"].values()} == {*second["server"]["clusters"].values()} == {0, 1}
    one, other = strategy.models[0], strategy.models[1]
    same(only("discriminator", one), only("discriminator", other))
    assert not torch.equal(one["generator.0.linear.weight"], other["generator.0.linear.weight"])
    for client, edge in second["server"]["clusters"].items():
        same(strategy._generator(int(client)), only("generator", strategy.models[edge]))
    kept = load_file(RunLayout(tmp_path).generator)
    same(
        {name: value for name, value in kept.items() if name.startswith("edge 1.")},
        {f"edge 1.{name}": value for name, value in only("generator", other).items()},
    )


def test_as_many_edges_as_clients_without_a_cloud_are_clients_alone(tmp_path: Path) -> None:
    run_strategy(settings(tmp_path / "edges", "hfl_gan", hfl_gan__num_edges=3, hfl_gan__cloud_every=0))
    run_strategy(settings(tmp_path / "alone", "pfl_gan", pfl_gan__warmup_rounds=2))
    for client in range(3):
        same(state(tmp_path / "edges", client), state(tmp_path / "alone", client))
