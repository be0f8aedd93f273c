"""FedAvg as Flower's quickstart has it, of the run's denoiser: its own strategy, a data loader, weights and no state.

A client loads the weights that come, passes over its images with a new Adam, and sends the weights back. There is no
average of weights, clipping, ledger or checkpoint; nothing is checked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import threads
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.images import normalize
from collafuse_flwr.diffusion.loss import denoising_loss
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.setup.diffusion import diffusion_setup

#: What the run leaves: when each round began, and the last one ended.
REPORT = "quickstart.json"
#: The record of the weights in a message, and the one of numbers.
ARRAYS, METRICS = "arrays", "metrics"

app = ClientApp()
server = ServerApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Pass over the client's images from the weights that came."""
    config, client = Config.from_flat(context.run_config), int(context.node_config["partition-id"])
    setup, images = diffusion_setup(config), _images(config, client)
    network, seed = _network(config, setup, client), (config.run.seed, "quickstart", client)
    arrays: Any = message.content[ARRAYS]
    network.load_state_dict(arrays.to_torch_state_dict())
    optimiser, generator = torch.optim.Adam(network.parameters(), config.train.learning_rate), named_generator(*seed)
    loader = DataLoader(images, config.client.batch_size, shuffle=True, generator=generator)
    updates, total = 0, 0.0
    with threads(config.resources.client_threads):
        for _ in range(int(config.train.local_epochs)):
            for x, labels in loader:
                start = torch.zeros_like(labels)
                t = torch.randint(1, setup.schedule.timesteps + 1, labels.shape, generator=generator)
                noise = torch.randn(x.shape, generator=generator)
                process = setup.schedule, setup.objective, setup.denoise(network)
                loss = denoising_loss(*process, x, start, t, noise, labels)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                updates, total = updates + len(x), total + loss.item() * len(x)
    numbers = MetricRecord({"loss": total / updates, "num-examples": len(images), "updates": updates})
    content = RecordDict({ARRAYS: ArrayRecord(network.state_dict()), METRICS: numbers})
    return Message(content, reply_to=message)


class TimedFedAvg(FedAvg):
    """Flower's FedAvg with a clock."""

    def __init__(self) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.began: list[float] = []
        self.updates = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Note when the round begins."""
        self.began.append(time.perf_counter())
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Count the image updates of the round."""
        arrived = list(replies)
        for reply in arrived:
            numbers: Any = reply.content[METRICS]
            self.updates = self.updates + numbers["updates"] if server_round > 1 else 0.0
        return super().aggregate_train(server_round, arrived)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds, and write when each began and the image updates of all but the first."""
    config = Config.from_flat(context.run_config)
    strategy, network = TimedFedAvg(), _network(config, diffusion_setup(config), 0)
    strategy.start(grid, ArrayRecord(network.state_dict()), config.run.num_rounds)
    times = [*strategy.began, time.perf_counter()]
    write_json(Path(config.run.output) / REPORT, {"times": times, "updates": strategy.updates})


def _images(config: Config, client: int) -> TensorDataset:
    own = federation_data(config.data, config.run.num_supernodes, config.run.seed).client(client).train
    return TensorDataset(normalize(own.images), own.labels)


def _network(config: Config, setup: DiffusionSetup, client: int) -> nn.Module:
    images = federation_data(config.data, config.run.num_supernodes, config.run.seed).images
    return setup.denoiser(client, images.images.shape[1], images.images.shape[2], images.num_classes)
