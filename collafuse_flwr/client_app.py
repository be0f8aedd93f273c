"""The ClientApp: routes each message to the algorithm's client side."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from collafuse_flwr.client.collafuse import CollaFuseClient
from collafuse_flwr.client.factory import make_client, make_simulated_client
from collafuse_flwr.client.huscf_gan import HuscfGanClient
from collafuse_flwr.client.mdgan import MdGanClient
from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.config.sections import GANS
from collafuse_flwr.core.errors import SettingError, UserError
from collafuse_flwr.core.runtime import threads
from collafuse_flwr.data.federated import load_client_data
from collafuse_flwr.runs.run_layout import client_folder, run_folder
from collafuse_flwr.wire.codec import ClientError, pack_client_error, pack_numbers

C = TypeVar("C", bound=CollaFuseClient)

app = ClientApp()


@app.query("hello")
def client_info(message: Message, context: Context) -> Message:
    """Introduce this client."""
    return _answer(message, context, lambda client: pack_numbers(client.client_info()))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train for one round."""
    return _answer(message, context, lambda client: client.on_train(message.content))


@app.train("split")
def split(message: Message, context: Context) -> Message:
    """Answer a phase of a batch of the split GAN."""
    return _answer(message, context, lambda client: _of(client, HuscfGanClient).on_split(message.content))


@app.train("feedback")
def feedback(message: Message, context: Context) -> Message:
    """Judge fake images of MD-GAN."""
    return _answer(message, context, lambda client: _of(client, MdGanClient).on_feedback(message.content))


@app.evaluate("latent")
def latent(message: Message, context: Context) -> Message:
    """Begin samples of the split GAN."""
    return _answer(message, context, lambda client: _of(client, HuscfGanClient).on_latent(message.content))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Make samples from what the server handed over, and keep them."""
    return _answer(message, context, lambda client: client.on_evaluate(message.content))


def _answer(message: Message, context: Context, act: Callable[[CollaFuseClient], RecordDict]) -> Message:
    """Let the client act; a mistake of the user's becomes a refusal that the server can show."""
    try:
        config = Config.from_flat(context.run_config)
        with threads(config.federation.client_threads):
            content = act(_client(config, context))
    except UserError as error:
        content = pack_client_error(ClientError(_tell(error, context)))
    return Message(content, reply_to=message)


def _of(client: CollaFuseClient, kind: type[C]) -> C:
    """The client, if it is of the kind that a message is for."""
    if not isinstance(client, kind):
        raise UserError(f"`strategy` = {client.setup.config.run.strategy} has no such message")
    return client


def _tell(error: UserError, context: Context) -> str:
    """What the server may know of a mistake: a client with data of its own keeps the names of its files to itself."""
    if "data-path" not in context.node_config:
        return str(error)
    print(f"error: {error}", file=sys.stderr)
    return f"{type(error).__name__}: the client's own log says more"


def _client(config: Config, context: Context) -> CollaFuseClient:
    """The client that this node is.

    In simulation `partition-id` picks its share of the run's data set. A node with a `data-path` of its own
    (deployment) holds what lies there, keeps its state in `state-path`, and draws its secret from the operating system.
    """
    node = context.node_config
    if "partition-id" not in node:
        raise SettingError("partition-id", None, "every node needs one in its --node-config, counted from 0")
    client = int(node["partition-id"])
    if not 0 <= client < config.run.num_supernodes:
        allowed = f"0..{config.run.num_supernodes - 1}, as `num_supernodes` = {config.run.num_supernodes}"
        raise SettingError("partition-id", client, allowed)
    folder = client_folder(run_folder(config, context.run_id), client)
    folder = Path(str(node["state-path"])) if "state-path" in node else folder
    if "data-path" not in node:
        return make_simulated_client(config, client, folder)
    store = ClientStore(folder)
    if config.run.strategy in GANS and config.gan.engine == "fused":
        raise SettingError("engine", "fused", "messages where clients hold images of their own")
    data = load_client_data(config.data, config.run.seed, str(node["data-path"]), str(store.folder / "decoded"))
    return make_client(config, client, data, store, seeded_secret=False)
