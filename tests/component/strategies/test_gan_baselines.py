"""FedGAN, MD-GAN and their like on digits: against training that is written out, and with what goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from collafuse_flwr.client.mdgan import MdGanClient
from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.gan.mdgan import Discriminator, Generator, draw_codes
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.setup.gan import build_optim_config
from strategies.fedgan import FedGan
from strategies.gan_base import GeneratorStrategy
from strategies.huscf_gan import HuscfGan
from strategies.mdgan import MdGan
from tests.gan_runs import TINY, TWO_BATCHES, same, settings, state, straight_runs
from tests.small_runs import bytes_of, connect, here_is, metrics, run_strategy, spoiled

BASELINES = ("fedgan", "mdgan", "fsl_gan", "pfl_gan", "hfl_gan")
#: The message in which a client trains.
KIND = {
    "fedgan": "train",
    "mdgan": "train.feedback",
    "fsl_gan": "train.feedback",
    "pfl_gan": "train",
    "hfl_gan": "train",
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return straight_runs(tmp_path_factory, *BASELINES)


def test_fedgan_alone_is_split_training_bit_for_bit(tmp_path: Path) -> None:
    whole = run_strategy(settings(tmp_path / "whole", "fedgan", num_supernodes=1))
    split = run_strategy(settings(tmp_path / "split", "huscf_gan", num_supernodes=1, gan__transport="in_process"))
    assert isinstance(whole, FedGan)
    assert isinstance(split, HuscfGan)
    same(state(tmp_path / "whole", 0), state(tmp_path / "split", 0) | split.half.state())
    own, theirs = (RunLayout(tmp_path / kind).client(0).samples for kind in ("whole", "split"))
    assert own.read_bytes() == theirs.read_bytes()


def test_fedgans_mean_is_weighted_by_images(tmp_path: Path) -> None:
    strategy = run_strategy(settings(tmp_path, "fedgan", num_rounds=1))
    assert isinstance(strategy, FedGan)
    counts = {int(client): count for client, count in metrics(tmp_path)[0]["images"].items()}
    assert len(set(counts.values())) > 1
    names = {"g_head": "generator", "g_tail": "generator", "d_head": "discriminator", "d_tail": "discriminator"}

    def blocks(client: int) -> dict[str, Tensor]:
        tensors = {}
        for name, value in state(tmp_path, client).items():
            part, _, rest = name.partition(".blocks.")
            tensors[f"{names[part]}.{rest}" if part in names else name] = value
        return tensors

    own = {client: blocks(client) for client in counts}
    for name, value in strategy.shared.items():
        expected = sum((count * own[c][name].double() for c, count in counts.items()), torch.zeros(()))
        torch.testing.assert_close(value.double(), expected / sum(counts.values()), rtol=1e-5, atol=1e-7)
    steps = {row["steps"] for row in metrics(tmp_path)[0]["clients"].values()}
    assert steps == {-(-max(counts.values()) // TINY["gan.batch_size"])}


def test_mdgan_alone_is_a_textbook_gan_bit_for_bit(tmp_path: Path) -> None:
    config = settings(tmp_path, "mdgan", num_supernodes=1)
    strategy = run_strategy(config)
    assert isinstance(strategy, MdGan)
    client = here_is(config, tmp_path, 0)
    assert isinstance(client, MdGanClient)
    optim_config, batches = build_optim_config(config), client._batches()
    generator = Generator(strategy.architecture, (0, "gan", "server"), optim_config)
    judge = Discriminator(strategy.architecture, (0, "gan", 0), optim_config)

    def loss(logits: Tensor, target: float) -> Tensor:
        return binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    for round_ in (1, 2):
        for step in range(metrics(tmp_path)[0]["clients"]["0"]["steps"]):
            z, labels = draw_codes(TINY["gan.batch_size"], 10, named_generator(0, "fake", round_, step, 0))
            real, fake = batches.draw(round_, step), generator.blocks(z, labels)
            on_fake, on_real = judge.blocks(fake.detach(), labels), judge.blocks(real.x, real.labels)
            judge.optimiser.zero_grad()
            (loss(on_fake, 0.0) + loss(on_real, 1.0)).backward()
            judge.optimiser.step()
            generator.optimiser.zero_grad()
            loss(judge.blocks(fake, labels), 1.0).backward()
            generator.optimiser.step()
    same(strategy.generator.state(), generator.state())
    same(state(tmp_path, 0), judge.state())


def test_mdgan_in_one_process_is_mdgan_by_messages(tmp_path: Path, straight: dict[str, Path]) -> None:
    run_strategy(settings(tmp_path, "mdgan", mdgan__k=2, gan__transport="in_process"))
    assert metrics(tmp_path) == metrics(straight["mdgan"])
    assert bytes_of(tmp_path) == bytes_of(straight["mdgan"])


def test_a_discriminator_goes_to_another_client(tmp_path: Path) -> None:
    strategy = run_strategy(settings(tmp_path, "mdgan", num_rounds=1, gan__transport="in_process"))
    assert isinstance(strategy, MdGan)
    swapped = {int(sender): receiver for sender, receiver in metrics(tmp_path)[0]["server"]["swapped"].items()}
    assert len(swapped) == 3
    for sender, receiver in swapped.items():
        sent = Discriminator(strategy.architecture, ("other",), strategy.optim_config)
        sent.load(state(tmp_path, sender))
        same(strategy.discriminators[receiver], sent.weights())
        begun: Any = here_is(strategy.config, tmp_path, receiver)
        playing = begun.open_round(2, strategy.discriminators[receiver])
        same(playing.judge.weights(), sent.weights())
        adam_state = {name: value for name, value in state(tmp_path, receiver).items() if name.startswith("adam")}
        same({name: value for name, value in playing.judge.state().items() if name in adam_state}, adam_state)


@pytest.mark.parametrize("strategy", BASELINES)
def test_a_resumed_run_with_clients_in_another_order_is_the_same(
    tmp_path: Path, straight: dict[str, Path], strategy: str
) -> None:
    config = settings(tmp_path, strategy, **TWO_BATCHES.get(strategy, {}))

    def die(message: Message, context: Context) -> Message | None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_strategy(config, connect(config, spoiled(1, die, [2], KIND[strategy]), [2, 1, 0]))
    run_strategy(config, connect(config, partitions=[1, 2, 0]))
    assert metrics(tmp_path) == metrics(straight[strategy])
    assert bytes_of(tmp_path) == bytes_of(straight[strategy])


def _fails(message: Message, context: Context) -> Message:
    raise ValueError("broken")


def _altered(change: Callable[[Any], Any], record: str) -> Callable[[Message, Context], Message]:
    def answer(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        arrays = dict(reply.content.array_records[record].items())
        name = next(iter(arrays))
        arrays[name] = Array(change(np.array(arrays[name].numpy())))
        reply.content[record] = ArrayRecord(arrays)
        return reply

    return answer


@pytest.mark.parametrize("strategy", BASELINES)
@pytest.mark.parametrize("way", ["fails", "nan", "shape"])
def test_a_client_that_goes_wrong_costs_itself_alone(tmp_path: Path, strategy: str, way: str) -> None:
    record = "weights" if KIND[strategy] == "train" else "activations"
    changes = {"nan": lambda x: x * np.float32("nan"), "shape": lambda x: x[:-1]}
    spoil = _fails if way == "fails" else _altered(changes[way], record)
    config = settings(tmp_path, strategy, num_rounds=1)
    made = run_strategy(config, connect(config, spoiled(1, spoil, kind=KIND[strategy])))
    row = metrics(tmp_path)[0]
    reasons = row["failed" if way == "fails" else "rejected"]
    assert list(reasons) == ["1"]
    assert {"fails": "broken", "nan": "finite", "shape": "must be"}[way] in reasons["1"]
    assert sorted(row["clients"]) == ["0", "2"]
    assert sorted(row["evaluation"]) == ["0", "1", "2"]
    assert isinstance(made, GeneratorStrategy)
    assert all(bool(value.isfinite().all()) for value in made._generator(0).values())


def test_what_a_client_of_mdgan_sends_in_an_iteration_is_one_gradient(tmp_path: Path) -> None:
    sent: set[str] = set()

    def watch(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        sent.update(name for record in reply.content.array_records.values() for name in record)
        return reply

    config = settings(tmp_path, "mdgan", num_rounds=1, num_supernodes=1)
    run_strategy(config, connect(config, spoiled(0, watch, kind="train.feedback")))
    assert sent == {"feedback"}


def test_more_batches_than_clients_are_refused() -> None:
    with pytest.raises(SettingError, match=r"`mdgan.k` = 4 .* at most `num_supernodes` = 3"):
        Config.from_flat({"strategy": "mdgan", "num_supernodes": 3, "mdgan.k": 4})
