"""What all networks start from, and public images beside the uploads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from torch import Tensor

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.tensor_io import read_tensors
from collafuse_flwr.data.datasets import load_images
from collafuse_flwr.data.images import normalize
from collafuse_flwr.diffusion.schedule import cosine
from collafuse_flwr.diffusion.unet import ImageShape, build_network, save_network
from collafuse_flwr.runs.run_dir import open_run
from collafuse_flwr.runs.run_layout import RunLayout
from strategies.collafuse import CollaFuse
from strategies.public_images import Joined
from tests.small_runs import bytes_of, connect, federate, metrics, run_strategy, small, spoiled
from tests.starts import client_weights, start_network, write_start

#: So small a step that trained weights are those that training began with, but for rounding.
STILL: dict[str, Any] = {"train.learning_rate": 1e-8, "train.local_epochs": 1.0, "model": "nano"}
#: Strategies and how their clients begin.
BEGINNINGS: list[dict[str, Any]] = [
    {"strategy": "local"},
    {"strategy": "collafuse", "client.init_from": "random"},
    {"strategy": "collafuse", "client.init_from": "backbone"},
    {"strategy": "hybrid"},
    {"strategy": "clean_server"},
    {"strategy": "fedavg"},
    {"strategy": "fedavg", "federation.fraction_train": 0.5},
    {"strategy": "udec"},
]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that knows other classes than the digits."""
    return write_start(tmp_path_factory.mktemp("start"), classes=4)


def is_at_the_start(weights: dict[str, Tensor]) -> bool:
    wanted = start_network(4).state_dict()
    own = {name: x for name, x in wanted.items() if not name.startswith("class_embedding.")}
    return all(torch.allclose(weights[name], x, rtol=0, atol=1e-5) for name, x in own.items())


@pytest.mark.parametrize("beginning", BEGINNINGS, ids=lambda given: "-".join(map(str, given.values())))
def test_every_network_begins_there_in_every_strategy(tmp_path: Path, start: Path, beginning: dict[str, Any]) -> None:
    rounds = 6 if "federation.fraction_train" in beginning else 2
    config = small(tmp_path, **STILL | beginning, start_from=str(start), num_rounds=rounds)
    strategy = run_strategy(config)
    assert not any(row["rejected"] or row["failed"] for row in metrics(tmp_path))
    server = strategy._arrays().to_torch_state_dict()
    if "conv_in.weight" in server:
        assert is_at_the_start(dict(server))
    for client in range(3):
        assert is_at_the_start(client_weights(tmp_path, client))


@pytest.mark.parametrize("strategy", ["local", "fedavg"])
def test_without_it_they_begin_elsewhere(tmp_path: Path, strategy: str) -> None:
    run_strategy(small(tmp_path, **STILL, strategy=strategy))
    assert not is_at_the_start(client_weights(tmp_path, 0))


def test_a_client_with_too_few_images_for_a_step_keeps_it_for_later(tmp_path: Path, start: Path) -> None:
    """The first round has no whole batch for anybody."""
    settings = STILL | {"client.batch_size": 64, "strategy": "local", "num_rounds": 3}
    run_strategy(small(tmp_path, **settings, start_from=str(start)))
    steps = [[own["steps"] for own in row["clients"].values()] for row in metrics(tmp_path)]
    assert max(steps[0]) == 0 < min(map(max, steps[2:]))
    assert all(is_at_the_start(client_weights(tmp_path, client)) for client in range(3))


def test_it_is_sent_again_to_a_client_that_it_did_not_reach(tmp_path: Path, start: Path) -> None:
    def die(message: Message, context: Context) -> Message | None:
        raise RuntimeError("no memory")

    config = small(tmp_path, **STILL, client__init_from="random", start_from=str(start), num_rounds=3)
    run_strategy(config, connect(config, spoiled(1, die, rounds=[1])))
    assert all(is_at_the_start(client_weights(tmp_path, client)) for client in range(3))


def test_a_start_that_does_not_fit_ends_the_run_before_a_round(tmp_path: Path, start: Path) -> None:
    with pytest.raises(SettingError, match=r"^`start_from` = "):
        run_strategy(small(tmp_path, start_from=str(start), model="tiny"))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_client_that_trains_all_steps_with_a_full_budget_is_one_alone(tmp_path: Path) -> None:
    """Its updates, draws and start are those of `local`: the cut then only says what is uploaded."""
    settings = {"client.update_budget": "full", "model": "nano"}
    run_strategy(small(tmp_path / "split", **settings, client__range="all"))
    run_strategy(small(tmp_path / "alone", **settings, strategy="local"))
    for client in range(3):
        split, alone = (client_weights(tmp_path / kind, client) for kind in ("split", "alone"))
        assert all(torch.equal(split[name], value) for name, value in alone.items())


@pytest.mark.parametrize(("ratio", "server_steps"), [(0.0, 14), (0.5, 10), (1.0, 0)])
def test_the_hand_over_is_above_the_cut_where_it_is_wanted(tmp_path: Path, ratio: float, server_steps: int) -> None:
    own = {"sampling.steps": 20, "sampling.server_steps": 0, "sampling.client_steps": 0, "model": "nano"}
    strategy = federate(small(tmp_path, **own, client__range="all", sampling__handover_ratio=ratio, num_rounds=1))
    assert len(strategy.setup.server_grid(6)) - 1 == server_steps
    assert len(strategy.setup.client_grid(6)) - 1 == 20 - server_steps
    handed = read_tensors(RunLayout(tmp_path).handoffs)[0]
    assert all(x.isfinite().all() for x in handed.values())


def test_an_upload_is_at_the_cut_wherever_the_hand_over_is(tmp_path: Path) -> None:
    for name, ratio in (("cut", 0.0), ("above", 0.8)):
        given = {"client.range": "all", "sampling.handover_ratio": ratio, "model": "nano", "num_rounds": 1}
        federate(small(tmp_path / name, **given))
    first, second = (bytes_of(tmp_path / name) for name in ("cut", "above"))
    pool = [name for name in first if name.endswith("x_k.bin")]
    assert pool
    assert all(first[name] == second[name] for name in pool)


def test_public_images_are_trained_on_beside_the_uploads(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "public.dataset": "digits",
        "public.max_images": 60,
        "num_rounds": 1,
        "server.batch_size": 10,
    }
    plain, strategy = (
        federate(small(tmp_path / str(i), **own))
        for i, own in enumerate(({"num_rounds": 1, "server.batch_size": 10}, given))
    )
    steps = [metrics(tmp_path / str(i))[0]["server"]["steps"] for i in (0, 1)]
    assert steps[1] - steps[0] == 60 / 10
    assert plain.public is None
    assert isinstance(strategy, CollaFuse)
    assert strategy.public is not None
    private = load_images(strategy.config.data, strategy.config.run.seed)
    held = {x.numpy().tobytes() for x in normalize(private.images)}
    assert not held & {x.numpy().tobytes() for x in strategy.public.images}


def test_a_batch_of_both_has_each_row_at_its_own_step(tmp_path: Path) -> None:
    strategy = federate(small(tmp_path, public__dataset="digits", public__max_images=20, num_rounds=1))
    assert strategy.public is not None
    source = Joined((strategy.pool, strategy.public))
    uploads = len(strategy.pool)
    assert len(source) == uploads + 20
    assert source.cuts.tolist() == [6] * uploads + [0] * 20
    rows = torch.tensor([uploads + 3, 0, uploads, 5])
    x, begin, labels = source.batch(rows)
    assert begin.tolist() == [6, 6, 0, 0]
    assert torch.equal(x[2:], strategy.public.images[[3, 0]])
    assert torch.equal(x[:2], strategy.pool.batch(torch.tensor([0, 5]))[0])
    assert labels is not None
    assert strategy.public.labels is not None
    assert torch.equal(labels[2:], strategy.public.labels[[3, 0]])
    only = source.batch(torch.tensor([uploads + 1]))
    assert torch.equal(only[0], strategy.public.images[[1]])


def test_the_client_app_is_the_one_of_a_deployment(tmp_path: Path) -> None:
    """Clients never read the folder: a deployed one has none."""
    folder = tmp_path / "gone"
    save_network(build_network("nano", ImageShape(1, 8, 4), 7, "pretrained"), folder, cosine(20), "v_prediction")
    config = small(tmp_path / "run", **STILL, client__init_from="random", start_from=str(folder))

    def without(message: Message, context: Context) -> Message | None:
        assert folder.is_dir()
        folder.rename(tmp_path / "away")
        try:
            return client_app(message, context)
        finally:
            (tmp_path / "away").rename(folder)

    run_strategy(config, connect(config, spoiled(0, without, rounds=[1, 2])))
    assert is_at_the_start(client_weights(tmp_path / "run", 0))


@pytest.mark.parametrize("strategy", ["collafuse", "udec"])
def test_who_has_not_begun_makes_no_samples_from_scratch(tmp_path: Path, start: Path, strategy: str) -> None:
    own: dict[str, Any] = {"strategy": strategy, "federation.fraction_train": 0.3, "evaluation.every": 1}
    run_strategy(small(tmp_path, **STILL | own, start_from=str(start)))
    rows = metrics(tmp_path)
    begun: set[str] = set()
    for row in rows:
        begun |= row["clients"].keys()
        assert row["evaluation"].keys() == begun
    assert 0 < len(rows[0]["evaluation"]) < 3


@pytest.mark.parametrize("strategy", ["collafuse", "udec", "fedavg"])
def test_a_run_goes_on_without_the_folder_to_the_same_bits(tmp_path: Path, start: Path, strategy: str) -> None:
    """A client that begins after the interruption begins where the others did."""
    folder = tmp_path / "start"
    shutil.copytree(start, folder)
    own: dict[str, Any] = {"strategy": strategy, "federation.fraction_train": 0.5, "num_rounds": 4, "model": "nano"}

    def config(name: str) -> Config:
        return small(tmp_path / name, **own, start_from=str(folder))

    run_strategy(config("whole"))

    def die(message: Message, context: Context) -> Message | None:
        raise KeyboardInterrupt

    chosen = next(int(client) for client in metrics(tmp_path / "whole")[2]["clients"])
    with pytest.raises(KeyboardInterrupt):
        run_strategy(config("killed"), connect(config("killed"), spoiled(chosen, die, rounds=[3])))
    shutil.rmtree(folder)
    run_strategy(config("killed"))
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("strategy", ["fedavg", "udec"])
def test_the_start_is_sent_once(tmp_path: Path, start: Path, strategy: str) -> None:
    """What is shared goes as the global weights, and only the rest of the network beside it."""
    size = sum(x.numel() * 4 for x in build_network("nano", ImageShape(1, 8, 10), 0, "any").state_dict().values())
    run_strategy(small(tmp_path, **STILL, strategy=strategy, start_from=str(start), num_rounds=1))
    down = metrics(tmp_path)[0]["bytes_down"]
    # The evaluation sends the shared part again.
    assert all(size <= sent < 2.1 * size for sent in down.values())


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"strategy": "local"}, False),
        ({"cut_ratio": 0.3}, False),
        ({"cut_ratio": 0.3, "public.dataset": "digits", "public.max_images": 20}, True),
        ({"strategy": "centralized"}, True),
        ({"strategy": "fedavg"}, True),
    ],
)
def test_a_run_is_a_start_only_if_its_backbone_knows_all_steps(
    tmp_path: Path, settings: dict[str, Any], allowed: bool
) -> None:
    before = small(tmp_path / "before", **settings, model="nano", num_rounds=1)
    open_run(before, tmp_path / "before")
    run_strategy(before)
    after = small(tmp_path / "after", strategy="local", model="nano", num_rounds=1, start_from=str(tmp_path / "before"))
    if allowed:
        run_strategy(after)
    else:
        with pytest.raises(SettingError, match="of a run whose backbone knows all steps"):
            run_strategy(after)


def test_public_images_are_clipped_as_uploads_are(tmp_path: Path) -> None:
    given = {"public.dataset": "digits", "public.max_images": 60, "num_rounds": 1, "upload.clip_norm": 4.0}
    strategy = federate(small(tmp_path, **given))
    assert strategy.public is not None
    assert strategy.public.images.flatten(1).norm(dim=1).max() <= 4.0 + 1e-5
