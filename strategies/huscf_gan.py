"""The server side of HuSCF-GAN as a Flower strategy: split training batch by batch, then clustered averages."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import cast

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor
from torch.nn.functional import interpolate

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.atomic_io import write_tensors
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.gan.aggregation import Own, ServerAggregation, aggregate
from collafuse_flwr.gan.build import batches_per_round, build_gan_architecture, build_optim_config
from collafuse_flwr.gan.networks import NETS, flatten_blocks, group_by_block
from collafuse_flwr.gan.planning.cut_selection import modelled_seconds, select_cuts
from collafuse_flwr.gan.split_gan.ops import PASSES, Tensors
from collafuse_flwr.gan.split_gan.precision import QuantizingTransport
from collafuse_flwr.gan.split_gan.server_half import ServerHalf
from collafuse_flwr.gan.split_gan.train_batch import Transport, train_batch
from collafuse_flwr.wire.codec import count_bytes
from collafuse_flwr.wire.collafuse import ClientInfo
from collafuse_flwr.wire.fedavg import Weights
from collafuse_flwr.wire.split_gan import (
    EndRoundReply,
    EndRoundRequest,
    GenerateHeadRequest,
    GenerateTailRequest,
    pack_end_round_reply,
    pack_end_round_request,
    pack_generate_head_request,
    pack_generate_tail_request,
    unpack_activations,
    unpack_end_round_reply,
)
from collafuse_flwr.wire.validation import check_activations, check_weights
from strategies.base import BaseStrategy
from strategies.client_clustering import ActivationStats, ClientWeights, initial_cluster
from strategies.server_model import ServerWork, weights
from strategies.split_transport import (
    ActivationShapes,
    InProcessTransport,
    LocalClient,
    MessageTransport,
    TimedTransport,
)


class HuscfGan(BaseStrategy, Strategy):
    """HuSCF-GAN (arXiv 2507.12979): a conditional GAN in three pieces, of which clients keep the outer two.

    A round is split training on some batches, six round trips each, and then an average of the clients' blocks within
    clusters. The global arrays are the server's blocks.
    """

    half: ServerHalf

    def __init__(self, config: Config, folder: Path, progress: Progress, clients: Callable[[int], LocalClient]) -> None:
        """`clients` gives a client of a simulation, for the engine that needs no messages."""
        super().__init__(config, folder, progress)
        self.clients = clients

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take in the clients' blocks; cluster, weigh and average."""
        row, began = self.history.rounds[-1], time.perf_counter()
        self._gather_training(replies, self._accept_training)
        row.server["seconds"] += time.perf_counter() - began
        with self._threads():
            self._average(row.round)
        return self._arrays(), self._close_training(None)

    def save(self) -> None:
        """Write the server's blocks."""
        write_tensors(self.folder / "server" / "middle.safetensors", self.half.blocks())

    def _cuts_in_words(self) -> str:
        return f", cuts {', '.join(sorted({str(self.cuts[client]) for client in self.client_manager.client_infos}))}"

    def _build(self, client_info: ClientInfo) -> None:
        config = self.config
        self.architecture = build_gan_architecture(
            config, client_info.channels, client_info.size, client_info.num_classes
        )
        cuts = select_cuts(config, self.architecture)
        self.cuts, self.modelled = dict(enumerate(cuts)), modelled_seconds(config, self.architecture, cuts)
        # As the clients' own blocks begin, so that whoever keeps a block, it is the same.
        owner = "server" if config.gan.gan_init == "independent" else 0
        self.half = ServerHalf(
            self.architecture, self.cuts, (config.run.seed, "gan", owner), build_optim_config(config)
        )
        self.shapes = ActivationShapes(self.architecture, config.gan.gan_batch_size, config.gan.factored_tails)
        self.cluster_of: dict[int, int] = {}
        self.models: dict[int, Weights] = {}
        self.latents: dict[int, Tensor] = {}
        self.received: dict[int, Weights] = {}

    def _before_training(self, grid: Grid, round_: int) -> None:
        """Train on all batches of a round, with fewer clients where some fall silent."""
        began = time.perf_counter()
        config = self.config
        steps = batches_per_round(
            config, (self.client_manager.client_infos[client].num_images for client in self.selected)
        )
        self.observed = ActivationStats(config.gan)
        near, far = self._link(grid, round_)
        link = TimedTransport(far)
        pending: dict[int, Tensors] = {client: {} for client in self.selected}
        flops, rows = 0, 0
        for step in range(steps):
            self.progress.step("batches", step, steps)
            near.step = step
            rows += len(pending) * config.gan.gan_batch_size
            flops += self._flops(list(pending))
            pending, seen = train_batch(self.half, link, pending)
            if not pending:
                break
            if step >= steps - config.gan.cluster_batches:
                self.observed.see({client: seen[client] for client in pending})
        seconds = time.perf_counter() - began
        work = ServerWork(math.nan, step + 1, rows, seconds - link.seconds, flops)
        cuts = {str(client): str(own) for client, own in self.cuts.items()}
        told = {"pool": 0, "client_cuts": cuts, "batch_seconds": seconds}
        self.history.rounds[-1].server = asdict(work) | told
        if self.modelled is not None:
            self.history.rounds[-1].server["modelled_seconds"] = self.modelled * work.steps
        self.selected, self.pending = sorted(pending), pending
        if isinstance(near, InProcessTransport):
            self._close_here(near)

    def _close_here(self, near: InProcessTransport) -> None:
        """End the round of clients in this process, as their answers to messages would."""
        self.selected, row = [], self.history.rounds[-1]
        for client, tensors in self.pending.items():
            row.count(row.bytes_down, client, count_bytes(self._train_content(client, row.round, ArrayRecord())))
            content = pack_end_round_reply(near.close(client, tensors, self.config.gan.wire_dtype))
            row.count(row.bytes_up, client, count_bytes(content))
            self._accept(client, partial(self._accept_training, client, content))
            self.clients(client).keep_round(near.sessions[client])

    def _link(self, grid: Grid, round_: int) -> tuple[MessageTransport | InProcessTransport, Transport]:
        """What counts the steps of a round, and what reaches the clients in them."""
        config = self.config.gan
        if config.engine == "messages":
            link = MessageTransport(
                grid, self._round_trip, round_, config.wire_dtype, self.cuts, self.shapes, self._fresh_weights
            )
            return link, link
        row = self.history.rounds[-1]

        def count(client: int, down: int, up: int) -> None:
            row.count(row.bytes_down, client, down)
            row.count(row.bytes_up, client, up)

        sessions = {}
        for client in self.selected:
            fresh = self._fresh_weights(client)
            row.count(row.bytes_down, client, sum(value.nbytes for value in fresh.values()))
            sessions[client] = self.clients(client).open_round(round_, str(self.cuts[client]), fresh)
        near = InProcessTransport(
            sessions,
            self.config.federation.client_threads,
            self._accept,
            lambda client, phase: self.shapes.of(self.cuts[client], phase),
        )
        return near, QuantizingTransport(near, config.wire_dtype, count)

    def _train_content(self, client: int, round_: int, arrays: ArrayRecord) -> RecordDict:
        """The last gradient that is due; for it the client sends its blocks."""
        request = EndRoundRequest(round_, str(self.cuts[client]), self.pending[client])
        return pack_end_round_request(request, self.config.gan.wire_dtype)

    def _fresh_weights(self, client: int) -> Weights:
        """The blocks that a client begins a round with: its cluster's (see `initial_cluster`), if there are any."""
        known = self.models.get(initial_cluster(self.cluster_of, client), {})
        if not known:
            return {}
        server = self.half.blocks()
        wanted = self.cuts[client].template(self.architecture)
        return {name: (known[name] if name in known else server[name]).cpu() for name in wanted}

    def _accept_training(self, client: int, content: RecordDict) -> None:
        """Take in one client's blocks.

        Raises:
            UploadError: they are not those that were asked for.
        """
        reply: EndRoundReply = unpack_end_round_reply(content)
        check_weights("weights", reply.weights, self.cuts[client].template(self.architecture))
        self.received[client] = reply.weights
        self.history.rounds[-1].clients[str(client)] = asdict(reply.numbers)

    def _average(self, round_: int) -> None:
        """Average what came in, as its clients' activations say."""
        device = self.half.runtime.device
        received = {c: {name: x.to(device) for name, x in own.items()} for c, own in self.received.items()}
        self.received = {}
        if not received:
            return
        sizes = {client: self.client_manager.client_infos[client].num_images for client in received}
        warm_up = round_ <= self.config.gan.warmup_rounds
        weighing = self.observed.weigh(sizes, self.cluster_of, warm_up=warm_up)
        self.cluster_of |= weighing.cluster_of
        # Clusters of which nobody took part keep their blocks, for whoever of them comes back.
        here = set(weighing.cluster_of.values())
        self.models = {c: {} if c in here else self.models.get(c, {}) for c in sorted(set(self.cluster_of.values()))}
        server = self.half.blocks()
        for net in NETS:
            own: dict[int, Own] = {client: group_by_block(blocks, net) for client, blocks in received.items()}
            clients, renewed = aggregate(
                own,
                group_by_block(server, net),
                cluster_of=weighing.cluster_of,
                within=weighing.within,
                overall=weighing.overall,
                server_agg=cast(ServerAggregation, self.config.gan.server_aggregation),
            )
            self.half.load_blocks(flatten_blocks(net, renewed))
            for client, blocks in clients.items():
                self.models[weighing.cluster_of[client]] |= flatten_blocks(net, blocks)
        self._note(weighing)

    def _note(self, weighing: ClientWeights) -> None:
        """Keep what was found in the journal."""
        self.history.rounds[-1].server |= {
            "clusters": {str(client): cluster for client, cluster in weighing.cluster_of.items()},
            "weights": {str(client): weight for client, weight in weighing.within.items()},
            "divergences": {str(client): score for client, score in weighing.scores.items()},
        }

    def _flops(self, clients: list[int]) -> int:
        """Operations of the server in a batch: three passes of the generator, eight of the discriminator."""
        rows = self.config.gan.gan_batch_size
        return sum(rows * PASSES[net] * self.half.flops(client, net) for client in clients for net in NETS)

    def _server_flops(self, client_info: ClientInfo) -> int:
        return self.half.flops(client_info.partition_id, "generator")

    def _before_evaluation(self, grid: Grid, round_: int) -> None:
        """Let every client begin its samples, with the blocks that were averaged."""
        contents = {}
        for client, count in self._sample_counts().items():
            known = self._fresh_weights(client)
            own = {name: value for name, value in known.items() if name.startswith("generator.")}
            contents[client] = pack_generate_head_request(
                GenerateHeadRequest(round_, count, str(self.cuts[client]), own)
            )
        self.wanted, self.latents = self._sample_counts(), {}
        self._round_trip(grid, contents, "evaluate.latent", self._accept_latent)
        self.selected = sorted(self.latents)

    def _accept_latent(self, client: int, content: RecordDict) -> None:
        tensors = unpack_activations(content, self.config.gan.wire_dtype)
        row = self.shapes.cut(self.cuts[client], "gh")
        check_activations(tensors, {"gh": torch.Size((self.wanted[client], *row))})
        self.latents[client] = tensors["gh"]

    def _evaluate_content(self, client: int, round_: int, count: int, arrays: ArrayRecord) -> tuple[RecordDict, Tensor]:
        """The middle's output, and for the pictures the mean of its maps, at the images' size."""
        gt = self.half.generate(client, self.latents[client].to(self.half.runtime.device)).cpu()
        content = pack_generate_tail_request(
            GenerateTailRequest(round_, str(self.cuts[client]), gt), self.config.gan.wire_dtype
        )
        shown = gt.mean(dim=1, keepdim=True)
        shown = (shown - shown.mean()) / (2 * shown.std() + 1e-6)
        size = self.architecture.size
        return content, interpolate(shown, (size, size)).expand(-1, self.architecture.channels, -1, -1)

    def _arrays(self) -> ArrayRecord:
        return ArrayRecord({name: value.cpu() for name, value in self.half.blocks().items()})

    def _load_initial(self, arrays: ArrayRecord) -> None:
        device = self.half.runtime.device
        self.half.load_blocks({name: value.to(device) for name, value in weights(arrays).items()})

    def _checkpoint(self) -> tuple[dict[str, Tensor], str]:
        tensors = {f"server.{name}": value for name, value in self.half.state().items()}
        for cluster, model in self.models.items():
            tensors |= {f"cluster.{cluster}.{name}": value for name, value in model.items()}
        return tensors, json.dumps({str(client): cluster for client, cluster in self.cluster_of.items()})

    def _restore(self, tensors: dict[str, Tensor], pool: str) -> None:
        self.half.load({n.removeprefix("server."): v for n, v in tensors.items() if n.startswith("server.")})
        self.cluster_of = {int(client): cluster for client, cluster in json.loads(pool).items()}
        for name, value in tensors.items():
            if name.startswith("cluster."):
                _, cluster, own = name.split(".", 2)
                self.models.setdefault(int(cluster), {})[own] = value
