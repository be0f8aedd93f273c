"""A small federation on digits in this process, for tests of whole rounds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from numpy.typing import NDArray

from collafuse_flwr.client.base import BaseClient
from collafuse_flwr.client.factory import make_simulated_client
from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.config.config import Config, without_unread
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.privacy.release import upload_order
from collafuse_flwr.runs.run_layout import RunLayout
from simulations.runners.app_loading import begin_run
from simulations.runners.local_grid import LocalGrid
from strategies import make_strategy
from strategies.base import BaseStrategy
from strategies.collafuse import CollaFuse

SMALL: dict[str, Any] = {
    "num_supernodes": 3,
    "num_rounds": 2,
    "data.max_images": 150,
    "model": "nano",
    "diffusion.timesteps": 20,
    "cut_ratio": 0.3,
    "train.local_epochs": 1.0,
    "server.batch_size": 32,
    "client.batch_size": 8,
    "evaluation.num_samples": 12,
    # Half of the time of a run: the classifiers of its samples.
    "evaluation.tstr": "none",
    "sampling.sampler": "ddim",
    "sampling.server_steps": 3,
    "sampling.client_steps": 2,
    "client.init_from": "random",
    "resources.server_threads": 1,
    "quiet": True,
}

#: Every option of the split GAN that steadies training or keeps labels from the server.
GAN_OPTIONS: dict[str, Any] = {
    "split_gan.loss": "hinge",
    "split_gan.spectral_norm": True,
    "split_gan.augmentation": "color+translation+cutout",
    "split_gan.ema": 0.9,
    "split_gan.reset_moments": True,
    "split_gan.fake_labels": "drawn",
    "split_gan.condition_at": "tail",
}


def small(folder: Path, **settings: Any) -> Config:
    """Settings of a run that takes about a second; `gan__width=2` stands for `gan.width=2`."""
    given = dotted(settings)
    return Config.from_flat(without_unread(SMALL | {"output": str(folder)} | given, given))


def dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their public names, from keyword arguments."""
    return {name.replace("__", "."): value for name, value in settings.items()}


def connect(config: Config, app: ClientApp = client_app, partitions: Iterable[int] | None = None) -> LocalGrid:
    """The clients of a run, in this process."""
    return LocalGrid(app, begin_run(), config.to_flower(), config.run.num_supernodes, partitions)


def federate(config: Config, grid: Grid | None = None) -> CollaFuse:
    """Run CollaFuse as `run_strategy` does any strategy."""
    strategy = run_strategy(config, grid)
    assert isinstance(strategy, CollaFuse)
    return strategy


def here_is(config: Config, folder: Path, client: int) -> BaseClient:
    """A client of a run in this process, as the ServerApp would make it."""
    return make_simulated_client(config, client, RunLayout(folder).client(client).folder)


def in_file_order(config: Config, folder: Path, client: int, sent: NDArray[Any], draw: int = 0) -> NDArray[Any]:
    """The rows of an upload, which leave in an order of the client's own, in that of its images and draws."""
    draws = range(draw, draw + config.upload.draws_per_image)
    order = upload_order(here_is(config, folder, client)._secret(), draws, len(sent) // len(draws))
    rows = np.empty_like(sent)
    rows[order.numpy()] = sent
    return rows


def run_strategy(config: Config, grid: Grid | None = None) -> BaseStrategy:
    """Run the strategy through Flower's own `start`, without measuring the samples afterwards."""
    folder = Path(config.run.output)
    here = partial(here_is, config, folder)
    strategy = make_strategy(config, folder, Progress(quiet=True), here)
    grid = grid or connect(config)
    arrays = strategy.connect(grid)
    strategy.start(grid, arrays, strategy.rounds_left, config.federation.round_timeout)
    strategy.save()
    return strategy


def metrics(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock measured."""
    clocks = ("seconds", "batch_seconds")

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(item) for key, item in value.items() if key not in clocks}
        return value

    return [timeless(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def bytes_of(folder: Path) -> dict[str, bytes]:
    """The networks and samples that a run left, by path."""
    kept = sorted(itertools.chain(folder.rglob("*.safetensors"), folder.rglob("*.bin")))
    timed = RunLayout(folder).checkpoint.name, RunLayout(folder).last_checkpoint.name
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept if path.name not in timed}


def spoiled(
    client: int | Collection[int],
    spoil: Callable[[Message, Context], Message | None],
    rounds: Iterable[int] = (1,),
    kind: str = "train",
) -> ClientApp:
    """The ClientApp, but a client's answers, or those of several, to messages of a kind are spoiled in some rounds.

    `spoil` answers, raises, or passes (None).
    """
    hostile = {client} if isinstance(client, int) else set(client)

    def call(message: Message, context: Context) -> Message:
        chosen = context.node_config["partition-id"] in hostile and message.metadata.message_type == kind
        if chosen and int(message.content.config_records["config"]["round"]) in set(rounds):  # type: ignore[arg-type]
            answer = spoil(message, context)
            if answer is not None:
                return answer
        return client_app(message, context)

    app = ClientApp()
    for register in (app.train, app.evaluate):
        register()(call)
    app.train("feedback")(call)
    app.query("client_info")(client_app)
    return app
