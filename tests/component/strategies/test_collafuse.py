"""Whole rounds: the same seed gives the same bits, and what goes wrong costs only itself."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.core.errors import UserError
from simulations.runners.local_grid import LocalGrid
from strategies.collafuse import CollaFuse
from strategies.server_model import SampleOrder
from tests.small_runs import bytes_of, connect, federate, metrics, small, spoiled


class ShuffledGrid(LocalGrid):
    """Clients answer in an order of their own."""

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        shuffled = list(messages)
        random.Random(len(shuffled)).shuffle(shuffled)
        return super().push_messages(shuffled)


def test_the_same_seed_gives_the_same_bits_in_any_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    federate(small(first))
    config = small(second)
    federate(config, ShuffledGrid(client_app, 1, config.to_flower() | {"output": str(second)}, 3))
    assert metrics(first) == metrics(second)
    assert bytes_of(first).keys() == bytes_of(second).keys()
    assert bytes_of(first) == bytes_of(second)


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    federate(small(tmp_path / "a"))
    federate(small(tmp_path / "b", seed=1))
    assert metrics(tmp_path / "a") != metrics(tmp_path / "b")


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(
    scope="module",
    params=[
        {},
        {"upload.noise": "resampled", "client.init_from": "backbone", "federation.fraction_train": 0.7},
        {"server.holdout_fraction": 0.2, "sampling.handover": "best", "client.init_from": "backbone"},
    ],
    ids=["as by default", "new noise from a share of the clients", "what is held out"],
)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run of three rounds that nothing ends before, and its settings."""
    settings: dict[str, Any] = {"num_rounds": 3} | request.param
    folder = tmp_path_factory.mktemp("whole")
    federate(small(folder, **settings))
    return folder, settings


@pytest.mark.parametrize("moment", ["aggregate_train", "configure_evaluate", "aggregate_evaluate"])
def test_a_killed_run_resumes_to_the_same_bits(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    uninterrupted, settings = whole
    original = getattr(CollaFuse, moment)

    def dies_in_round_two(self: CollaFuse, *arguments: Any) -> Any:
        if self.history.rounds[-1].round == 2:
            raise Killed
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(CollaFuse, moment, dies_in_round_two)
        with pytest.raises(Killed):
            federate(small(tmp_path, **settings))
    assert len(metrics(tmp_path)) == 1
    resumed = federate(small(tmp_path, **settings))
    assert resumed.rounds_left == 0
    assert metrics(tmp_path) == metrics(uninterrupted)
    assert bytes_of(tmp_path) == bytes_of(uninterrupted)


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    federate(small(tmp_path))
    before = metrics(tmp_path)
    federate(small(tmp_path))
    assert metrics(tmp_path) == before


def _raises(message: Message, context: Context) -> Message:
    raise RuntimeError("the disk is full")


def _dies(message: Message, context: Context) -> Message:
    raise SystemExit(1)


def _sends_nan(message: Message, context: Context) -> Message:
    reply = client_app(message, context)
    arrays = reply.content.array_records["upload"].to_torch_state_dict()
    arrays["x_k"][0, 0, 0, 0] = torch.nan
    reply.content["upload"] = ArrayRecord(arrays)
    return reply


def _sends_nan_loss(message: Message, context: Context) -> Message:
    reply = client_app(message, context)
    numbers = dict(reply.content.metric_records["metrics"])
    reply.content["metrics"] = MetricRecord(numbers | {"loss": float("nan")})
    return reply


def _sends_more(message: Message, context: Context) -> Message:
    """What the first paper's code sends: the noise beside the noised image."""
    reply = client_app(message, context)
    arrays = reply.content.array_records["upload"].to_torch_state_dict()
    arrays["noise"] = torch.zeros_like(arrays["x_k"])
    reply.content["upload"] = ArrayRecord(arrays)
    return reply


def _sends_nothing(message: Message, context: Context) -> Message:
    return Message(RecordDict(), reply_to=message)


@pytest.mark.parametrize(
    ("spoil", "kind", "reason"),
    [
        (_raises, "failed", "the disk is full"),
        (_dies, "failed", "SystemExit"),
        (_sends_nan, "rejected", "finite"),
        (_sends_nan_loss, "rejected", "`metrics.loss`"),
        (_sends_more, "rejected", "noise"),
        (_sends_nothing, "rejected", "`metrics`"),
    ],
)
def test_a_bad_contribution_costs_only_itself(tmp_path: Path, spoil: Any, kind: str, reason: str) -> None:
    """Round 1 goes on without it, and the client is back in round 2."""
    config = small(tmp_path, upload__dtype="float32")
    strategy = federate(config, connect(config, spoiled(1, spoil)))
    first, second = metrics(tmp_path)
    assert reason in first[kind]["1"]
    assert set(first["clients"]) == {"0", "2"}
    assert not second["failed"]
    assert not second["rejected"]
    assert set(second["clients"]) == {"0", "1", "2"}
    assert set(strategy.pool.shares) == {0, 1, 2}
    assert first["server"]["pool"] < second["server"]["pool"]


def test_a_run_in_which_nobody_contributes_ends_with_a_reason(tmp_path: Path) -> None:
    config = small(tmp_path, num_supernodes=1, data__max_images=60)
    with pytest.raises(UserError, match=r"round 1: .*the disk is full"):
        federate(config, connect(config, spoiled(0, _raises)))


def test_a_client_whose_images_have_no_attributes_says_so(tmp_path: Path) -> None:
    """In a deployment, where nobody could look beforehand."""
    with pytest.raises(
        UserError, match=r"^`data.conditioning` = 'attributes' is not allowed: classes or none: .* digits have"
    ):
        federate(small(tmp_path, data__conditioning="attributes"))


def test_a_late_joiner_uploads_when_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(tmp_path, federation__min_available_nodes=2, num_rounds=3)
    grid = connect(config, partitions=[0, 2])
    original = CollaFuse.aggregate_evaluate

    def joins_after_the_first_round(self: CollaFuse, *arguments: Any) -> Any:
        if self.history.rounds[-1].round == 1:
            grid.add_node(1)
        return original(self, *arguments)

    monkeypatch.setattr(CollaFuse, "aggregate_evaluate", joins_after_the_first_round)
    strategy = federate(config, grid)
    taking_part = [set(row["clients"]) for row in metrics(tmp_path)]
    assert taking_part == [{"0", "2"}, {"0", "1", "2"}, {"0", "1", "2"}]
    assert set(strategy.pool.shares) == {0, 1, 2}
    assert set(metrics(tmp_path)[-1]["evaluation"]) == {"0", "1", "2"}


def test_a_share_of_the_clients_takes_part(tmp_path: Path) -> None:
    federate(small(tmp_path, federation__fraction_train=0.34, num_rounds=4))
    rows = metrics(tmp_path)
    assert [len(row["clients"]) for row in rows] == [1] * 4
    assert len({name for row in rows for name in row["clients"]}) > 1
    assert len(rows[-1]["evaluation"]) == 3


def test_every_client_may_cut_elsewhere(tmp_path: Path) -> None:
    """One keeps nothing, one a part and one everything; the backbone serves all."""
    config = small(tmp_path, cut__client_ratios=[0, 0.3, 1])
    strategy = federate(config)
    assert {client: share.cut for client, share in strategy.pool.shares.items()} == {0: 0, 1: 6}
    last = metrics(tmp_path)[-1]
    assert [last["clients"][c]["steps"] > 0 for c in "012"] == [False, True, True]
    assert set(last["evaluation"]) == {"0", "1", "2"}
    assert last["evaluation"]["2"]["releases"] == 0


def test_clients_begin_with_the_backbone_and_catch_up(tmp_path: Path) -> None:
    """They train no less than those that start at once, only later; the weights are sent once."""
    federate(small(tmp_path / "random", num_rounds=4))
    federate(small(tmp_path / "backbone", num_rounds=4, client__init_from="backbone", client__start_round=3))
    rows = {name: metrics(tmp_path / name) for name in ("random", "backbone")}
    assert [row["clients"]["0"]["steps"] > 0 for row in rows["backbone"]] == [False, False, True, True]
    down = [row["bytes_down"]["0"] for row in rows["backbone"]]
    assert down[2] > 100 * down[1]
    assert down[2] > 10 * down[3]
    for client in "012":
        done = {name: sum(row["clients"][client]["image_updates"] for row in own) for name, own in rows.items()}
        assert abs(done["random"] - done["backbone"]) <= 8


def test_the_samples_of_clients_at_one_cut_are_made_together_and_are_those_of_each_alone(tmp_path: Path) -> None:
    """The same noise and labels, and the same samples but for the last bits of float32."""
    strategy = federate(small(tmp_path, num_rounds=1, cut__client_ratios=[0.3, 0.3, 0.6]))
    sizes: list[tuple[int, int]] = []
    handoffs = strategy.backbone.handoffs

    def noted(arrays: ArrayRecord, cut: int, orders: Sequence[SampleOrder]) -> list[Tensor]:
        sizes.append((cut, len(orders)))
        return handoffs(arrays, cut, orders)

    strategy.backbone.handoffs = noted  # type: ignore[method-assign]
    strategy.selected = [0, 1, 2]
    strategy._sample_to_cuts(1, dict.fromkeys(strategy.selected, 4))
    assert sizes == [(6, 2), (12, 1)]
    together = [strategy._evaluate_request(client, 1, 4)[0] for client in strategy.selected]
    assert len(sizes) == 2
    alone = []
    for client in strategy.selected:
        strategy._sample_to_cuts(1, {client: 4})
        alone.append(strategy._evaluate_request(client, 1, 4)[0])
    assert len(sizes) == 5
    for own, other in zip(together, alone, strict=True):
        assert own.labels is not None
        assert other.labels is not None
        assert torch.equal(own.labels, other.labels)
        torch.testing.assert_close(own.x_k, other.x_k, rtol=0, atol=1e-5)


def test_evaluations_come_as_often_as_configured(tmp_path: Path) -> None:
    federate(small(tmp_path, num_rounds=3, evaluation__every=2))
    assert [bool(row["evaluation"]) for row in metrics(tmp_path)] == [False, True, True]


def test_the_networks_are_ordinary_diffusers_folders(tmp_path: Path) -> None:
    strategy = federate(small(tmp_path))
    for folder in (tmp_path / "server" / "backbone", tmp_path / "clients" / "1" / "denoiser"):
        unet = UNet2DModel.from_pretrained(folder / "unet")
        scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
        assert unet(torch.zeros(1, 1, 8, 8), 3, class_labels=torch.zeros(1, dtype=torch.int64)).sample.shape[-1] == 8
        torch.testing.assert_close(scheduler.alphas_cumprod.double(), strategy.setup.schedule.alpha_bar[1:])
    saved = UNet2DModel.from_pretrained(tmp_path / "server" / "backbone" / "unet").state_dict()
    averaged = strategy.backbone.state.ema_state_dict()
    assert all(torch.equal(saved[name], value) for name, value in averaged.items())


def test_no_half_written_file_is_left(tmp_path: Path) -> None:
    federate(small(tmp_path))
    assert not [path for path in tmp_path.rglob(".*") if str(os.getpid()) in path.name]


def test_a_client_with_a_single_held_out_image_is_evaluated(tmp_path: Path) -> None:
    federate(small(tmp_path, num_rounds=1, data__max_images=12, partition="iid"))
    last = metrics(tmp_path)[-1]
    assert not last["failed"]
    assert set(last["evaluation"]) == {"0", "1", "2"}
