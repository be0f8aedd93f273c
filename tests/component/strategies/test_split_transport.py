"""What a split GAN's server and its clients do at either end of a link is kept apart."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.gan.split_gan.ops import PHASES
from tests.small_runs import connect, run_strategy, small


@pytest.mark.parametrize("strategy", ["huscf_gan", "mdgan"])
def test_the_time_of_clients_is_not_the_servers(tmp_path: Path, strategy: str) -> None:
    def slow(message: Message, context: Context) -> Message:
        if message.metadata.message_type == {"huscf_gan": "train.split", "mdgan": "train.feedback"}[strategy]:
            time.sleep(0.2)
        return client_app(message, context)

    app = ClientApp()
    for kind in (app.train(), app.train("split"), app.train("feedback"), app.evaluate("latent"), app.evaluate()):
        kind(slow)
    app.query("client_info")(client_app)
    one = {"num_supernodes": 1, "data.max_images": 20, "num_rounds": 1, "gan.width": 2, "gan.batch_size": 8}
    config = small(tmp_path, strategy=strategy, **one)
    run_strategy(config, connect(config, app))
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    messages = {"huscf_gan": len(PHASES), "mdgan": 1}[strategy] * row["server"]["steps"]
    assert row["server"]["seconds"] < 0.2 * messages
    if strategy == "huscf_gan":
        assert row["server"]["batch_seconds"] > 0.2 * messages
