"""The ClientApp: the client that a node is answers each message."""

from __future__ import annotations

import json
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from collafuse_flwr.client.base import BaseClient
from collafuse_flwr.client.factory import make_client, make_simulated_client
from collafuse_flwr.client.generation import GenerateClient
from collafuse_flwr.client.policy import Policy
from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import PolicyError, SettingError, UserError
from collafuse_flwr.core.runtime import threads
from collafuse_flwr.data.federated import load_client_data
from collafuse_flwr.data.report import DataReport
from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.runs.run_dir import open_config
from collafuse_flwr.runs.run_layout import ClientLayout, RunLayout, run_name
from collafuse_flwr.wire.codec import ClientError, encode

app = ClientApp()
#: All that the server learns of an error of a client with data of its own.
MASKED = "the client's own log says why it did not answer"


@app.query("client_info")
@app.query("images_wanted")
@app.query("generate")
@app.train()
@app.train("split")
@app.train("feedback")
@app.evaluate("latent")
@app.evaluate()
def answer(message: Message, context: Context) -> Message:
    """Let the client act; a mistake of the user's becomes a refusal that the server can show."""
    try:
        owner = _owner(context)
        if owner is not None:
            # Before anything else: settings can name what is to be imported.
            owner.check_imports(context.run_config)
        config = Config.from_flat(context.run_config)
        with threads(config.resources.client_threads):
            content = _client(config, context, owner).answer(message.metadata.message_type, message.content)
    except Exception as error:
        if _simulated(context) and not isinstance(error, UserError):
            raise
        content = encode(ClientError(_public_reason(error, context)))
        if isinstance(error, PolicyError) and "state-path" in context.node_config:
            _note_refusal(error, context)
    return Message(content, reply_to=message)


def _note_refusal(error: PolicyError, context: Context) -> None:
    """Have a refusal on the ledger; one that cannot be written there is refused all the same."""
    store = ClientStore(Path(str(context.node_config["state-path"])))
    try:
        with store.lock():
            Ledger(store.layout.ledger, str(context.run_id)).add_refusal(str(error))
    except (OSError, UserError) as unwritten:
        print(f"error: {unwritten}", file=sys.stderr)


def _public_reason(error: Exception, context: Context) -> str:
    """What the server may know of an error: of a client with data of its own that there is one, and no more.

    Even its kind may hang on the images. What goes beyond a policy is named, for that hangs on the request alone.
    """
    if _simulated(context):
        return str(error)
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    return str(error) if isinstance(error, PolicyError) else MASKED


def _owner(context: Context) -> Policy | None:
    """The limits that the owner of a node's images has set, safe ones where it has set none; None in a simulation."""
    node = context.node_config
    if "policy" in node:
        return Policy.load(Path(str(node["policy"])))
    return None if _simulated(context) else Policy()


def _simulated(context: Context) -> bool:
    """Whether a node is one of a simulation: Flower says its number, and how many there are, and nothing else.

    A SuperNode whose `data-path` is misspelt, or left out beside these two, must not be taken for one: the server would
    name what it reads. Its messages are answered by processes of this name.
    """
    of_supernode = Path(sys.argv[0]).stem == "flwr-clientapp"
    return context.node_config.keys() == {"partition-id", "num-partitions"} and not of_supernode


def _client(config: Config, context: Context, owner: Policy | None) -> BaseClient | GenerateClient:
    """The client that this node is, to train or to generate.

    In simulation `partition-id` picks its share of the run's data set. A node with a `data-path` of its own
    (deployment) holds what lies there, keeps its state in `state-path`, and draws its secret from the operating system.
    """
    node = context.node_config
    if "partition-id" not in node:
        raise SettingError("partition-id", None, "every node needs one in its --node-config, counted from 0")
    client, run = int(node["partition-id"]), str(context.run_id)
    if "data-path" not in node and not _simulated(context):
        # Or the server would choose what is read.
        raise SettingError("data-path", None, "the images of this node, in its --node-config")
    if "data-path" in node and "state-path" not in node:
        # Or the server would choose the folder of the secret.
        raise SettingError("state-path", None, "a folder of the client's own in --node-config, beside `data-path`")
    if config.run.policy and not _simulated(context):
        raise SettingError("policy", config.run.policy, "empty where clients hold images of their own, and limits")
    if config.run.task == "generate":
        return _generate_client(config, context, owner)
    if not 0 <= client < config.run.num_supernodes:
        allowed = f"0..{config.run.num_supernodes - 1}, as `num_supernodes` = {config.run.num_supernodes}"
        raise SettingError("partition-id", client, allowed)
    if "data-path" not in node:
        folder = RunLayout.of(config, context.run_id).client(client).folder
        return make_simulated_client(config, client, folder, run, owner)
    store = _own_store(config, context)
    if config.gan.transport == "in_process":
        raise SettingError("gan.transport", "in_process", "messages where clients hold images of their own")
    assert owner is not None
    owner.check_source(config, str(node["data-path"]))
    owner.check_settings(config, client)
    secret = store.secret(None, client)
    codec = _codec_path(config, context)
    data = load_client_data(config.data, secret, str(node["data-path"]), str(store.layout.image_cache), codec)
    _report_data(data.report, store.layout)
    return make_client(config, client, data, store, seeded_secret=False, run=run, policy=owner)


def _codec_path(config: Config, context: Context) -> str:
    """The folder of the codec on a node's own disk; empty where a run has none.

    Raises:
        SettingError: the node has no such folder, and nobody else may say what its images go through.
    """
    if config.data.codec and "codec-path" not in context.node_config:
        raise SettingError("codec-path", None, f"the folder of {config.data.codec}, in this node's --node-config")
    return str(context.node_config["codec-path"]) if config.data.codec else ""


def _report_data(report: DataReport, layout: ClientLayout) -> None:
    """Keep what is to be known of a client's images on its disk, and have it in its log when it is new."""
    content = report.as_json()
    # One that is damaged is written again, as one that is not there.
    with suppress(OSError, ValueError):
        if json.loads(layout.data_report.read_text()) == content:
            return
    write_json(layout.data_report, content)
    for line in report.lines:
        print(f"images: {line}", file=sys.stderr)


def _generate_client(config: Config, context: Context, owner: Policy | None) -> GenerateClient:
    """The client that finishes images of the run in `output`; it needs none of its own for that."""
    client, run = int(context.node_config["partition-id"]), str(context.run_id)
    if not _simulated(context):
        codec = str(context.node_config.get("codec-path", ""))
        return GenerateClient(
            client, _own_store(config, context), durable=True, run=run, policy=owner, codec_path=codec
        )
    layout = RunLayout.of(config, context.run_id)
    # With the codec that the run had.
    open_config(layout.folder)
    store = ClientStore(layout.client(client).folder)
    limits = Policy.load(Path(config.run.policy)) if config.run.policy else None
    return GenerateClient(client, store, durable=False, run=run, policy=limits)


def _own_store(config: Config, context: Context) -> ClientStore:
    """The folder of a client with a disk of its own."""
    return ClientStore(Path(str(context.node_config["state-path"])), run_name(config, context.run_id))
