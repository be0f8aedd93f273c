"""A client that claims to have more images than it has, to be most of what is averaged, pooled or counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from hypothesis import given
from hypothesis import strategies as st

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.diffusion.train import BatchSource
from collafuse_flwr.privacy.release import Upload
from collafuse_flwr.runs.upload_buffer import LimitedRows, UploadBuffer
from collafuse_flwr.setup.gan import batches_per_round
from collafuse_flwr.wire.common import TrainMetrics
from collafuse_flwr.wire.fedavg import WeightsReply
from simulations.runners.app_loading import begin_run
from strategies.aggregation import WeightAggregator
from strategies.fairness import cap_weights
from strategies.server_model import Backbone
from tests.small_runs import connect, metrics, run_strategy, small

METRICS = TrainMetrics(0.0, 1, 1, 0.0, 0)


WEIGHTS = st.dictionaries(st.integers(0, 20), st.floats(0.1, 1e9), min_size=1, max_size=8)


@given(WEIGHTS, st.floats(0.01, 1.0))
def test_no_weight_is_more_than_its_largest_share(weights: dict[int, float], most: float) -> None:
    capped = cap_weights(weights, most)
    total = sum(capped.values())
    assert max(capped.values()) <= max(most, 1 / len(weights)) * total * (1 + 1e-9)
    assert all(capped[client] <= weight * (1 + 1e-9) for client, weight in weights.items())
    order = sorted(weights, key=lambda client: weights[client])
    assert [capped[client] for client in order] == sorted(capped.values()), "whoever had more has no less"
    if max(weights.values()) <= most * sum(weights.values()) * (1 - 1e-9):
        assert capped == weights


def test_a_weight_of_nothing_does_not_make_all_nothing() -> None:
    assert cap_weights({0: 0.0, 1: 3.0, 2: 5.0}, 0.2) == dict.fromkeys(range(3), 3.0)


def test_one_client_is_not_the_mean() -> None:
    """Of 100 honest images at 1.0 and a client that claims 10^15 at -5.0 the mean was -5.0."""
    begin_run()
    for most, mean in ((1.0, -5.0), (0.5, -2.0)):
        aggregator = WeightAggregator(FedAvg(), {"w": torch.zeros(2)}, most)
        for client, (size, value) in enumerate(((100, 1.0), (10**15, -5.0))):
            reply = WeightsReply(metrics=METRICS, weights={"w": torch.full((2,), value)}, averaged={})
            aggregator.add(client, size, reply)
        assert aggregator.mean()[0]["w"].tolist() == pytest.approx([mean, mean])


def test_one_client_is_not_the_pool(tmp_path: Path) -> None:
    pool = UploadBuffer(tmp_path, (1, 2, 2), "float32", torch.device("cpu"))
    for client, rows in enumerate((10, 90)):
        pool.add(client, 5, Upload(torch.full((rows, 1, 2, 2), float(client)).numpy(), 1.0))
    assert pool.limited(cap_weights(pool.sizes(), 1.0)) is pool
    limited = pool.limited(cap_weights(pool.sizes(), 0.6))
    assert isinstance(limited, LimitedRows)
    x, cuts, labels = limited.batch(torch.arange(len(limited)))
    assert x[:, 0, 0, 0].tolist() == [0.0] * 10 + [1.0] * 15
    assert (cuts == 5).all()
    assert labels is None
    # Less than an equal share is an equal one, not a row of each.
    assert len(pool.limited(cap_weights(pool.sizes(), 0.3))) == 20


def test_one_client_does_not_decide_how_long_a_round_is(tmp_path: Path) -> None:
    config = small(tmp_path, strategy="fedgan", gan__batch_size=10)
    assert batches_per_round(config, cap_weights({0: 100, 1: 100, 2: 10**6}, 0.5).values()) == 20


#: Of three clients with about forty images each, what the last one says that it has, and the share that it may count.
CLAIMED, SHARE = 3000, 0.4
#: Of all weights that it sends; honest ones are hardly above three.
LOUD = 20.0


def claiming(spoil: Callable[[Message], None]) -> ClientApp:
    """The ClientApp, but the last client says that it has far more images, and its training is spoiled."""

    def call(message: Message, context: Context) -> Message:
        reply: Message = client_app(message, context)
        if context.node_config["partition-id"] == 2:
            if message.metadata.message_type == "query.client_info":
                reply.content.metric_records["metrics"]["num_images"] = CLAIMED
            elif message.metadata.message_type == "train":
                spoil(reply)
        return reply

    app = ClientApp()
    for register in (app.query("client_info"), app.train(), app.train("split"), app.evaluate("latent"), app.evaluate()):
        register(call)
    return app


def loud(reply: Message) -> None:
    """Weights that are all alike, and large."""
    for record in ("weights", "averaged"):
        if record in reply.content:
            arrays = {
                name: Array(np.full_like(array.numpy(), LOUD)) if name.endswith(("weight", "bias")) else array
                for name, array in reply.content.array_records[record].items()
            }
            reply.content[record] = ArrayRecord(arrays)


@pytest.mark.parametrize("strategy", ["fedavg", "hybrid", "fedgan", "huscf_gan", "hfl_gan"])
def test_no_claim_makes_one_clients_weights_those_of_all(tmp_path: Path, strategy: str) -> None:
    """With 3,000 images where two others have 40 each, the mean was what it sent; and a round as long as it liked."""
    gan = strategy.endswith("gan")
    own: dict[str, Any] = {"gan__width": 2, "gan__batch_size": 8} if gan else {"model": "nano"}
    if strategy == "hybrid":
        # Where nothing is uploaded, which would have to be as much as it claims.
        own["cut_ratio"] = 1.0
    if strategy == "hfl_gan":
        # At an edge of its own it would be alone.
        own["hfl_gan__num_edges"] = 1
    config = small(tmp_path, strategy=strategy, num_rounds=1, federation__max_client_weight=SHARE, **own)
    made: Any = run_strategy(config, connect(config, claiming(loud)))
    (row,) = metrics(tmp_path)
    assert row["rejected"] == {}
    shared = list(made.models.values()) if strategy in ("huscf_gan", "hfl_gan") else [made.shared]
    values = {name: value for part in shared for name, value in part.items() if name.endswith(("weight", "bias"))}
    largest = max(float(value.max()) for value in values.values())
    assert SHARE * LOUD - 3 < largest < SHARE * LOUD + 3
    if gan:
        assert max(client["steps"] for client in row["clients"].values()) < 15


def test_no_client_is_the_cloud_by_an_edge_of_its_own(tmp_path: Path) -> None:
    """All edges counted alike: one client alone at its edge was half of everybody's discriminator."""
    limits: dict[str, Any] = {
        "federation__max_client_weight": SHARE,
        "hfl_gan__num_edges": 2,
        "hfl_gan__cloud_every": 1,
    }
    config = small(tmp_path, strategy="hfl_gan", num_rounds=1, gan__width=2, gan__batch_size=8, **limits)
    made: Any = run_strategy(config, connect(config, claiming(loud)))
    (row,) = metrics(tmp_path)
    alone = [
        c for c, edge in row["server"]["clusters"].items() if [*row["server"]["clusters"].values()].count(edge) == 1
    ]
    assert alone, "an edge has one client"
    for own in made.models.values():
        values = [v for n, v in own.items() if n.startswith("discriminator.") and n.endswith(("weight", "bias"))]
        assert max(float(value.max()) for value in values) < SHARE * LOUD + 3


def test_no_claim_fills_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backbone was trained on what one client sent, as often as it had sent it."""

    def flood(reply: Message) -> None:
        arrays = dict(reply.content.array_records["upload"].items())
        x_k, labels = arrays["x_k"].numpy(), arrays["labels"].numpy()
        arrays["x_k"] = Array(np.full((CLAIMED, *x_k.shape[1:]), 0.5, x_k.dtype))
        arrays["labels"] = Array(np.resize(labels, CLAIMED))
        reply.content["upload"] = ArrayRecord(arrays)

    shares, train = [], Backbone.train

    def trains(backbone: Backbone, source: BatchSource, *given: Any, **named: Any) -> Any:
        x, _, _ = source.batch(torch.arange(len(source)))
        shares.append(float((x == 0.5).flatten(1).all(dim=1).float().mean()))
        return train(backbone, source, *given, **named)

    monkeypatch.setattr(Backbone, "train", trains)
    limits: dict[str, Any] = {"federation__max_client_weight": SHARE, "upload__dtype": "float32"}
    config = small(tmp_path, model="nano", num_rounds=1, **limits)
    run_strategy(config, connect(config, claiming(flood)))
    assert metrics(tmp_path)[0]["rejected"] == {}
    assert shares == [pytest.approx(SHARE, abs=0.02)]
